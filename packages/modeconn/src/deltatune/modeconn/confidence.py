"""The probability that a model gives the gold label of an example, in every form in which a task is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltatune.core.batches import Batch
from deltatune.core.data import Example, as_text
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Feature, Format, PromptFormat, TextFormat

Condition = Literal["gold", "greedy"]
MOST_ANSWERS = 50
_AT_ONCE = 32  # examples


def among(logits: Tensor, words: Tensor, gold: Tensor) -> Tensor:
    """Softmax of `logits` (B, V) over the columns `words` (C,), at the class `gold` (B,): (B,) float64."""
    chosen = logits.double()[:, words.to(logits.device)].log_softmax(dim=1)
    return chosen.gather(1, gold.to(logits.device)[:, None])[:, 0].exp()


def confidences(
    tuned: Tuned, form: Format, examples: Sequence[Example], features: Sequence[Feature], condition: Condition = "gold"
) -> list[float]:
    """Probability of the gold label of each example among the labels of the task, in evaluation mode.

    Args:
        tuned: the model.
        form: how the task is asked; texts may have any finite set of answers.
        examples: with labels.
        features: the same, encoded.
        condition: of a text: the tokens before the label are those of the gold answer (gold), or those that the model itself
            generates (greedy, as published).

    Raises:
        DeltatuneError: a regression, or texts with more than `MOST_ANSWERS` different answers.
    """
    if form.task.regression:
        raise DeltatuneError(f"task {form.task.name} has values and no labels, so there is no confidence in the right one")
    answers = _Answers(form) if isinstance(form, TextFormat) else None
    gold = torch.tensor(answers.classes(examples) if answers else form.references(examples))
    order = sorted(range(len(features)), key=lambda i: len(features[i]["input_ids"]))
    found = [0.0] * len(features)
    was_training = tuned.training
    tuned.eval()
    try:
        with torch.inference_mode():
            for first in range(0, len(order), _AT_ONCE):
                rows = order[first : first + _AT_ONCE]
                batch = {n: t.to(tuned.backbone.device) for n, t in form.collate([features[i] for i in rows]).items()}
                if answers:
                    values = answers.confidence(tuned, batch, gold[rows], condition)
                else:
                    logits = tuned(batch)
                    words = form.words if isinstance(form, PromptFormat) else torch.arange(logits.shape[1])
                    values = among(logits, words, gold[rows])
                for row, value in zip(rows, values.tolist(), strict=True):
                    found[row] = value
    finally:
        tuned.train(was_training)
    return found


class _Answers:
    """The finite set of answers of a text-to-text task, and where in them the label stands.

    The label position is the first at which answers differ. Where all answers have another token there, that token decides;
    otherwise whole answers are compared.
    """

    def __init__(self, form: TextFormat) -> None:
        self.form = form
        known = [as_text(form.task, example)[1] for example in form.task.train]
        self.texts = sorted({answers[0] for answers in known if answers})
        if not 2 <= len(self.texts) <= MOST_ANSWERS:
            raise DeltatuneError(
                f"task {form.task.name} has {len(self.texts)} different answers; a data map needs from 2 to {MOST_ANSWERS}"
            )
        self.ids: list[list[int]] = [form.tokenizer(text)["input_ids"] for text in self.texts]
        shortest = min(map(len, self.ids))
        self.position = next((i for i in range(shortest) if len({ids[i] for ids in self.ids}) > 1), shortest - 1)
        tokens = [ids[self.position] for ids in self.ids]
        self.words = torch.tensor(tokens) if len(set(tokens)) == len(tokens) else None

    def classes(self, examples: Sequence[Example]) -> list[int]:
        """The number of each example's first answer."""
        numbers = {text: number for number, text in enumerate(self.texts)}
        found = [as_text(self.form.task, example)[1][0] for example in examples]
        if strange := next((answer for answer in found if answer not in numbers), None):
            raise DeltatuneError(f"task {self.form.task.name}: {strange!r} is the answer of no training example")
        return [numbers[answer] for answer in found]

    def confidence(self, tuned: Tuned, batch: Batch, gold: Tensor, condition: Condition) -> Tensor:
        """(B,): probability of the gold answers `gold` (B,)."""
        if self.words is None:
            return self._of_sequences(tuned, batch).gather(1, gold.to(tuned.backbone.device)[:, None])[:, 0].exp()
        if condition == "gold":
            return among(tuned(batch)[:, self.position], self.words, gold)
        own = tuned.generate({k: v for k, v in batch.items() if k != "labels"}, max_new_tokens=self.position or 1)
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        missing = self.position + 1 - own.shape[1]  # the model ended its answer before the label
        ids = torch.nn.functional.pad(own, (0, max(0, missing)), value=self.form.pad_id)[:, : self.position + 1]
        return among(tuned({**inputs, "decoder_input_ids": ids})[:, self.position], self.words, gold)

    def _of_sequences(self, tuned: Tuned, batch: Batch) -> Tensor:
        """(B, C): log-softmax over the answers of the sum of their tokens' log-probabilities."""
        rows, sums = len(batch["input_ids"]), []
        for ids in self.ids:
            labels = torch.tensor(ids, device=tuned.backbone.device).expand(rows, -1)
            logits = tuned({**batch, "labels": labels}).double()
            lost = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            sums.append(-lost.reshape(rows, -1).sum(dim=1))
        return torch.stack(sums, dim=1).log_softmax(dim=1)
