"""What a method changes about an ordinary run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from deltatune.core.batches import Batch
from deltatune.core.data import Example, Task
from deltatune.core.delta import Tuned
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.formats import Feature, Format


class Method:
    """Ordinary tuning; a paper overrides what it does otherwise.

    `tune_to` calls `asks` and `begin` once, then `trained`, then `loss` in every forward pass, and `hold` before what is
    evaluated or saved. Everything that changes the outcome must be in `settings`, and nothing may depend on how often or when a
    method was called: an interrupted run begins again.
    """

    def settings(self) -> Mapping[str, Any]:
        """Plain values that decide the outcome; part of the run's identity."""
        return {}

    def asks(self, tuned: Tuned, form: Format) -> Format:
        """How the task is asked, given how it is asked without the method.

        What is tuned under a form of a paper's own is scored by that paper's commands, and the core refuses to ask otherwise.
        """
        return form

    def begin(self, tuned: Tuned, form: Format, task: Task) -> Mapping[str, Scores]:
        """Give the attached deltas the values that training starts from.

        Returns:
            Scores before any update, by split, where the method reports them.
        """
        return {}

    def loss(self, tuned: Tuned, form: Format, batch: Batch) -> Tensor:
        """The objective of a batch, (), mean over its examples."""
        return form.loss(tuned(batch), batch)

    def trained(self, tuned: Tuned) -> Mapping[str, Tensor]:
        """The tensors that are trained; the others keep the values that `begin` gave them."""
        return tuned.parameters_by_name()

    def hold(self, tuned: Tuned) -> None:
        """Give the deltas the values that what was trained stands for, where that is not the deltas' own tensors."""

    def score(self, tuned: Tuned, form: Format, examples: Sequence[Example], features: Sequence[Feature]) -> float:
        """The metric on dev that selects and stops, when `tuned` holds what `hold` gave it."""
        return evaluate(tuned, form, examples, features).value

    def found(self) -> Mapping[str, Any]:
        """Plain values for `run.json` beside the delta, once the deltas hold what was selected."""
        return {}
