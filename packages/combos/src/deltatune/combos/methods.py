"""Combined and sequential tuning as a method of `tune_to`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from deltatune.combos.combination import Stage, owned
from deltatune.combos.contexts import Demonstrations, asked_with
from deltatune.combos.losses import published_regression_loss
from deltatune.core import checkpoint
from deltatune.core.batches import Batch
from deltatune.core.data import Task
from deltatune.core.delta import Tuned
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.formats import Format, PromptFormat
from deltatune.core.method import Method

Dropout = Literal["on", "off", "reference"]
RegressionLoss = Literal["kl", "reference"]


@dataclass
class Combined(Method):
    """A stage of a combination.

    Args:
        methods: the combination up to this stage as text.
        template: manual, none or the user's own.
        stage: what is trained.
        start: delta of the stage before; what is not in it starts afresh.
        dropout: on or off in training; reference is the published accident (D4): off without adapters, on with adapters alone,
            with adapters and something else on until the first evaluation.
        regression_loss: kl, or the published one (D5).
        train_score: score the training examples at the end, for the gap to dev.
        demos: solved training examples around every query; None for none.
    """

    methods: str
    template: str
    stage: Stage
    start: Path | None = None
    dropout: Dropout = "on"
    regression_loss: RegressionLoss = "kl"
    train_score: bool = True
    demos: Demonstrations | None = None
    _at: tuple[Tuned, Format, Task] | None = field(default=None, repr=False)
    _evaluated: bool = field(default=False, repr=False)

    def settings(self) -> Mapping[str, Any]:
        """See `Method`."""
        found = {"methods": self.methods, "template": self.template, "stage": "+".join(self.stage), "dropout": self.dropout}
        start = {"start": _identity(self.start)} if self.start is not None else {}
        shown = {"demonstrations": self.demos.settings()} if self.demos is not None else {}
        return {**found, "regression_loss": self.regression_loss, **start, **shown}

    def asks(self, tuned: Tuned, form: Format) -> Format:
        """With demonstrations where there are any."""
        return form if self.demos is None else asked_with(form, self.demos)

    def begin(self, tuned: Tuned, form: Format, task: Task) -> Mapping[str, Scores]:
        """Take over what the stage before has tuned."""
        self._at, self._evaluated = (tuned, form, task), False
        if self.start is not None:
            tuned.load({**tuned.weights(), **checkpoint.read(self.start).weights})
        return {}

    def trained(self, tuned: Tuned) -> Mapping[str, Tensor]:
        """The tensors of the stage."""
        names = owned(tuned, self.stage)
        return {name: parameter for name, parameter in tuned.parameters_by_name().items() if name in names}

    def loss(self, tuned: Tuned, form: Format, batch: Batch) -> Tensor:
        """See the class."""
        if not self._drops():
            tuned.eval()
        logits = tuned(batch)
        if self.regression_loss == "reference" and isinstance(form, PromptFormat) and form.task.regression:
            chosen = logits[:, form.words.to(logits.device)]
            return published_regression_loss(chosen, batch["labels"], *form.task.regression)
        return form.loss(logits, batch)

    def hold(self, tuned: Tuned) -> None:
        """Note that an evaluation comes."""
        self._evaluated = True

    def found(self) -> Mapping[str, Any]:
        """The score on the training examples."""
        if not self.train_score or self._at is None:
            return {}
        tuned, form, task = self._at
        return {"train": evaluate(tuned, form, task.train).numbers()}

    def _drops(self) -> bool:
        if self.dropout != "reference":
            return self.dropout == "on"
        if "adapter" not in self.stage:
            return False
        return self.stage == ("adapter",) or not self._evaluated


def _identity(path: Path) -> dict[str, str]:
    about = checkpoint.describe(checkpoint.locate(path))
    return {"path": path.as_posix(), "digest": about["tensors_sha256"]}
