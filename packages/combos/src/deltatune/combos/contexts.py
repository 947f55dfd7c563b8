"""Tuning and scoring with demonstrations: a query is asked in several contexts, whose logits are averaged (LM-BFF, ACL 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deltatune.combos.demonstrations import (
    Rows,
    average,
    candidates_for,
    draw,
    draw_any,
    halves,
    in_context,
    ordered,
    similar,
    template_of,
    texts_shown,
    with_demonstrations,
)
from deltatune.combos.sentences import Vectors, about_folder
from deltatune.core.batches import Batch, pad
from deltatune.core.data import Example, Task
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Feature, Format, Prediction, PromptFormat
from deltatune.core.template import Lengths, Template


@dataclass(frozen=True)
class Demonstrations:
    """How a query is shown with solved training examples.

    Args:
        contexts: sets of demonstrations that a query is scored with, their logits averaged (published: `num_sample`).
        place: class, one example of each class behind the query; head or tail, `count` examples of any class before or behind it.
        count: how many of these.
        vectors: folder of `embed`; shows only examples that are like the query. None shows any.
        rate: share of the examples that counts as like the query.
        labels: own, or mixed up among the examples of a context: a control that shows whether their labels matter.
        templates: that the contexts are written with in turn, in place of the one template.
        seed: of the draw.
    """

    contexts: int = 16
    place: Literal["class", "head", "tail"] = "class"
    count: int = 32
    vectors: Path | None = None
    rate: float = 0.5
    labels: Literal["own", "mixed"] = "own"
    templates: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not be shown."""
        for name in ("contexts", "count"):
            if getattr(self, name) < 1:
                raise DeltatuneError(f"--demos.{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 < self.rate <= 1.0:
            raise DeltatuneError(f"--demos.rate must be above 0 and at most 1, got {self.rate}")

    def settings(self) -> dict[str, Any]:
        """Plain values that decide the outcome; of the vectors, what they are made of."""
        made = None if self.vectors is None else {**about_folder(self.vectors), "folder": str(self.vectors)}
        return {**asdict(self), "vectors": made, "templates": list(self.templates)}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Demonstrations:
        """The demonstrations that `settings` told of.

        Raises:
            DeltatuneError: the sentence vectors are gone, or others.
        """
        about = settings["vectors"]
        folder = Path(about["folder"]) if about else None
        found = cls(**{**settings, "vectors": folder, "templates": tuple(settings["templates"])})
        if found.settings() != settings:
            raise DeltatuneError(f"sentence vectors in {folder}: not those that the run was tuned with; embed the task again")
        return found


class ContextFormat(PromptFormat):
    """A template with solved training examples around it.

    The feature of a query holds the tokens of all its contexts, one after the other; in training it is shown in one context that
    is drawn anew each time.

    Args:
        form: the task without demonstrations.
        how: which ones.
    """

    def __init__(self, form: PromptFormat, how: Demonstrations) -> None:
        self.how, task = how, form.task
        self.vectors = None if how.vectors is None else Vectors.read(how.vectors)
        self.rows: dict[Example, int] = {}
        self.shown_classes, self.count = classes_of(task)
        super().__init__(task, form.tokenizer, form.max_length, form.prompt_length)
        self.pad_id = form.pad_id
        # Not before: the constructor encodes an example for a check, and may show it with itself.
        self.rows |= {example: row for row, example in enumerate(task.train)}

    @cached_property
    def templates(self) -> list[Template]:
        """With their demonstrations, in the order of the contexts."""
        plain = [Template.parse(text) for text in self.how.templates] or [self.template]
        if self.how.place == "class":
            return [with_demonstrations(template, self.count) for template in plain]
        return [in_context(template, self.how.count, self.how.place) for template in plain]

    def candidates(self, example: Example) -> Rows:
        """The training examples that may be shown with a query, in file order, or the most similar ones first."""
        own = candidates_for(self.rows.get(example), len(self.task.train))
        if self.vectors is None:
            return own
        query = self.vectors.of(example)
        return similar(query, self._supports, self.shown_classes, own, self.count, self.how.rate)

    def drawn(self, candidates: Sequence[int], draws: np.random.RandomState) -> Rows:
        """The training examples of one context, in the order in which the template shows them."""
        if self.how.place == "class":
            rows = ordered(draw(candidates, self.shown_classes, self.count, draws), self.shown_classes, self.count)
            return draws.permutation(rows).tolist() if self.how.labels == "mixed" else rows
        found = draw_any(candidates, self.how.count, draws)
        if len(found) < self.how.count:
            raise DeltatuneError(
                f"--demos.count {self.how.count}: {len(found)} training examples may be shown; lower it, raise --demos.rate, or "
                "give more examples"
            )
        return found

    def choose(self, feature: Feature, generator: torch.Generator) -> Feature:
        """The query in a context drawn anew."""
        draws = np.random.RandomState(int(torch.randint(2**32, (), generator=generator)))
        number = int(draws.randint(len(self.templates)))
        one = self._context(feature["example"], feature["candidates"], number, draws)
        return {**feature, **_joined([one])}

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Context 0 of all queries, then context 1, ...: (contexts * B, T); labels (B,)."""
        count = len(features[0]["ends"])
        rows = [_part(feature, number) for number in range(count) for feature in features]
        batch = super().collate([{"labels": feature["labels"], "input_ids": [0]} for feature in features if "labels" in feature])
        return {**batch, **pad(rows, self.pad_id)}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """See `PromptFormat`, of the mean logits."""
        return super().loss(average(logits, len(logits) // len(batch["labels"])), batch)

    def predict(self, output: Tensor) -> list[Prediction]:
        """See `PromptFormat`, of the mean logits."""
        return super().predict(average(output, self.how.contexts))

    def _encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Every query in its contexts: drawn for context 0 of all queries, then for context 1, ..., as published."""
        draws = np.random.RandomState(self.how.seed)
        candidates = [self.candidates(example) for example in examples]
        found: list[list[Feature]] = [[] for _ in examples]
        for number in range(self.how.contexts):
            for place, example in enumerate(examples):
                found[place].append(self._context(example, candidates[place], number, draws))
        return [
            self._with_label({**_joined(own), "example": example, "candidates": rows}, example)
            for own, example, rows in zip(found, examples, candidates, strict=True)
        ]

    def _context(self, example: Example, candidates: Sequence[int], number: int, draws: np.random.RandomState) -> Feature:
        template, rows = template_of(number, self.templates), self.drawn(candidates, draws)
        labels = [self.shown_classes[row] for row in rows]
        if self.how.place != "class" and self.how.labels == "mixed":
            labels = draws.permutation(labels).tolist()
        plain = Template.parse(self.how.templates[number % len(self.templates)]) if self.how.templates else self.template
        shown = texts_shown(plain)
        texts = [text for one in (example, *(self.task.train[row] for row in rows)) for text in one.texts[:shown]]
        encoding = template.encode(
            texts,
            self.tokenizer,
            self._lengths,
            prompt_length=self.prompt_length,
            label_word_ids=self.words.tolist(),
            support_labels=labels,
        )
        kinds = {"token_type_ids": encoding.token_type_ids} if "token_type_ids" in self.tokenizer.model_input_names else {}
        return {"input_ids": encoding.input_ids, **kinds}

    @property
    def _lengths(self) -> Lengths:
        """Of what is too long, examples before the query go first."""
        asked = self.task.config
        return Lengths(self.max_length, asked.first_sentence_limit, asked.other_sentence_limit, self.how.place == "head")

    @cached_property
    def _supports(self) -> Any:
        if self.vectors is None:
            raise DeltatuneError("demonstrations are not filtered")
        return np.stack([self.vectors.of(example) for example in self.task.train])


def classes_of(task: Task) -> tuple[list[int], int]:
    """Class number of every training example as demonstrations count them, and the number of classes; values have two halves."""
    if task.regression is not None:
        return halves([float(example.label or 0.0) for example in task.train], sum(task.regression) / 2), 2
    numbers = {label: number for number, label in enumerate(task.labels)}
    return [numbers[str(example.label)] for example in task.train], len(task.labels)


def asked_with(form: Format, how: Demonstrations) -> ContextFormat:
    """`form` with demonstrations.

    Raises:
        DeltatuneError: the task is not asked by a template.
    """
    if not isinstance(form, PromptFormat):
        raise DeltatuneError("demonstrations stand in a template; give a model with scores of words at a mask")
    return ContextFormat(form, how)


def _joined(contexts: Sequence[Feature]) -> Feature:
    """The contexts of a query one after the other; `ends` are their ends."""
    ends = np.cumsum([len(one["input_ids"]) for one in contexts]).tolist()
    names = [name for name in ("input_ids", "token_type_ids") if name in contexts[0]]
    return {name: [token for one in contexts for token in one[name]] for name in names} | {"ends": ends}


def _part(feature: Feature, number: int) -> Feature:
    """Context `number` of a query."""
    ends = [0, *feature["ends"]]
    return {name: feature[name][ends[number] : ends[number + 1]] for name in ("input_ids", "token_type_ids") if name in feature}
