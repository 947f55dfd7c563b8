"""An outdated model as teacher: its answers to the training examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deltatune.core.batches import Batch
from deltatune.core.data import Example
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Feature, Format, PromptFormat, TextFormat
from deltatune.core.probes import with_states
from deltatune.recyclable.distill import Side, first_positions

KEPT_BYTES = 1 << 30  # answers that are kept rather than asked again; ChemProt with all layers of a base model takes 160 MB
_ASKED_AT_ONCE = 32


def class_logits(form: Format, logits: Tensor, batch: Batch) -> Tensor:
    """The logits among which the task chooses, (B, C); of a text, (answer tokens, V).

    Raises:
        DeltatuneError: a regression has no classes.
    """
    if form.task.regression:
        raise DeltatuneError(f"task {form.task.name} has values and no classes; logits cannot be distilled, use `init`")
    if isinstance(form, PromptFormat):
        return logits[:, form.words.to(logits.device)]
    if isinstance(form, TextFormat):
        return logits[batch["labels"] != -100]
    return logits


def say(tuned: Tuned, form: Format, batch: Batch, layers: bool) -> tuple[Tensor, Side]:
    """The logits of a batch as the model gives them, and what is compared: those of the classes, and states if `layers`.

    Differentiable.
    """
    logits, states = with_states(tuned, batch) if layers else (tuned(batch), None)
    return logits, Side(class_logits(form, logits, batch), None if states is None else first_positions(states))


class Teacher:
    """A model in evaluation mode, without gradient, without labels of its own.

    Its answers to the training examples do not change, so they are asked for once where they fit into memory, in the order of
    the examples. It then reads the texts with its own tokenizer.

    Args:
        tuned: the old delta on the old base.
        form: how it is asked the task.
        layers: whether its states are needed as well.
    """

    def __init__(self, tuned: Tuned, form: Format, layers: bool) -> None:
        self.tuned, self.form, self.layers = tuned, form, layers
        self._kept: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {}
        tuned.eval()

    def hear(self, examples: Sequence[Example], student: Format, features: Sequence[Feature]) -> None:
        """Ask for the answers to `examples`, which the student reads as `features`, if they can be kept.

        Raises:
            DeltatuneError: they cannot be kept, and the student reads the texts as other tokens than the teacher.
        """
        own = self.form.features(examples)
        same = all(a["input_ids"] == b["input_ids"] for a, b in zip(own, features, strict=True))
        config = self.tuned.backbone.model.config
        width = len(student.task.labels) + (config.num_hidden_layers * config.hidden_size if self.layers else 0)
        if isinstance(student, TextFormat) or 4 * width * len(own) > KEPT_BYTES:
            if not same:
                raise DeltatuneError(
                    f"teacher {self.tuned.backbone.name} reads the texts as other tokens than the student, and its answers to "
                    f"{len(own):,} examples are too many to keep; give fewer with --max_train or --shots"
                )
            return
        for first in range(0, len(own), _ASKED_AT_ONCE):
            rows = range(first, min(first + _ASKED_AT_ONCE, len(own)))
            side = self._ask(self.form.collate([own[row] for row in rows]))
            for place, row in enumerate(rows):
                states = None if side.states is None else side.states[place].clone()
                self._kept[tuple(features[row]["input_ids"])] = side.logits[place].clone(), states

    def answer(self, batch: Batch) -> Side:
        """What the teacher says about a batch of the student's."""
        if not self._kept:
            return self._ask(batch)
        ids, mask = batch["input_ids"].tolist(), batch["attention_mask"].tolist()
        kept = [self._kept[tuple(t for t, real in zip(*row, strict=True) if real)] for row in zip(ids, mask, strict=True)]
        states = [state for _, state in kept if state is not None]
        return Side(torch.stack([logits for logits, _ in kept]), torch.stack(states) if states else None)

    def _ask(self, batch: Batch) -> Side:
        device = self.tuned.backbone.device
        with torch.no_grad():
            return say(self.tuned, self.form, {name: tensor.to(device) for name, tensor in batch.items()}, self.layers)[1]
