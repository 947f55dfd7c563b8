"""How a run is trained, as one checked configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch

from deltatune.core.batches import Batch, Batches
from deltatune.core.errors import DeltatuneError
from deltatune.core.optim import OptimizerConfig

Feature = TypeVar("Feature")


@dataclass(frozen=True)
class TrainConfig:
    """How long, in what portions and with which seeds to train, and which weights to keep.

    Args:
        optimizer: update rule, learning rate and schedule.
        steps: updates.
        epochs: passes over the training examples; when given, takes the place of steps.
        batch_size: examples in one forward pass, over all processes together.
        accumulation: forward passes per update; an update sees batch_size * accumulation examples.
        group_by_length: put examples of similar length together: faster, but no longer a uniform order.
        token_budget: most padded tokens, of inputs and answers, in one forward pass; larger ones are passed in parts; null
            for no limit.
        eval_every: updates between evaluations on dev; null evaluates at the end of each epoch.
        select: keep the weights of the best evaluation or of the last update.
        ties: which of equal best evaluations is kept.
        early_stopping: evaluations without improvement after which training ends; null never.
        snapshots: updates between snapshots, or a list of the updates to keep, none after the last; null for none.
        data_seed: of the order of examples and the choice among several answers.
        dropout_seed: of dropout and any other noise in the objective.
        precision: fp32, or bf16: forward passes in bfloat16, weights and optimizer in their own type.
        log_every: updates between log lines.
        save_every: updates between saved states to resume from; null for none.
    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1000
    epochs: float | None = None
    batch_size: int = 16
    accumulation: int = 1
    group_by_length: bool = False
    token_budget: int | None = None
    eval_every: int | None = None
    select: Literal["best", "last"] = "best"
    ties: Literal["first", "last"] = "first"
    early_stopping: int | None = None
    snapshots: int | tuple[int, ...] | None = None
    data_seed: int = 0
    dropout_seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 50
    save_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every"):
            if getattr(self, name) < 1:
                raise DeltatuneError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("token_budget", "eval_every", "early_stopping", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DeltatuneError(f"{name} must be at least 1, or null to switch it off, got {value}")
        if self.epochs is not None and not 0.0 < self.epochs < math.inf:
            raise DeltatuneError(f"epochs must be above 0, or null to count steps, got {self.epochs}")
        steps = (self.snapshots,) if isinstance(self.snapshots, int) else self.snapshots or ()
        if any(step < 1 for step in steps):
            raise DeltatuneError(f"snapshots must name updates from 1, got {self.snapshots}")
        if self.epochs is None:
            self.require_reached(self.steps)
        for name, known in (("select", "best last"), ("ties", "first last"), ("precision", "fp32 bf16")):
            if getattr(self, name) not in known.split():
                raise DeltatuneError(f"{name} is {getattr(self, name)!r}; choose {known.replace(' ', ' or ')}")

    def batches(
        self,
        features: Sequence[Feature],
        collate: Callable[[list[Feature]], Batch],
        choose: Callable[[Feature, torch.Generator], Feature] | None = None,
        weigh: Callable[[Feature], int] | None = None,
    ) -> Batches[Feature]:
        """`features` in the order and portions of this configuration; `choose` and `weigh` as in `Batches`."""
        grouped, budget = self.group_by_length, self.token_budget
        return Batches(features, collate, self.batch_size, self.data_seed, grouped, budget, choose, weigh)

    def total(self, per_epoch: int) -> int:
        """Updates of a whole run, where an epoch has `per_epoch` of them."""
        return self.steps if self.epochs is None else math.ceil(self.epochs * per_epoch)

    def updates(self, examples: int) -> int:
        """Updates of a whole run on so many training examples."""
        batches = -(-examples // self.batch_size)
        return self.total(-(-batches // self.accumulation))

    def require_reached(self, total: int) -> None:
        """Require that a run of `total` updates comes to every snapshot that is named; an interval may be longer than the run.

        Raises:
            DeltatuneError: one is after the end.
        """
        late = [] if isinstance(self.snapshots, int) else [step for step in self.snapshots or () if step > total]
        if late:
            raise DeltatuneError(
                f"snapshots: the run ends after {total} updates, before {late[0]}; leave it out, or train longer"
            )

    def save_at(self, step: int) -> bool:
        """Whether the state is due to be saved after `step` updates."""
        return self.save_every is not None and step % self.save_every == 0

    def snapshot_at(self, step: int) -> bool:
        """Whether a snapshot is due after `step` updates."""
        if isinstance(self.snapshots, int):
            return step % self.snapshots == 0
        return step in (self.snapshots or ())
