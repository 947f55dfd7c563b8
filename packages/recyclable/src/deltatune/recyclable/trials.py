"""Short trainings within a budget of time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deltatune.core.backbone import Backbone
from deltatune.core.batches import Batch
from deltatune.core.checkpoint import Saved
from deltatune.core.data import Task
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.evidence import Clock
from deltatune.core.formats import Format, build_format
from deltatune.core.method import Method
from deltatune.core.optim import OptimizerConfig
from deltatune.core.train import Hooks, TrainConfig
from deltatune.core.tune_config import TuneConfig
from deltatune.core.tuning import tune_prepared
from deltatune.recyclable.distill import Distillation, total_loss
from deltatune.recyclable.teacher import Teacher, say

LEAST_UPDATES = 8
_MANY = 1_000_000
_BACKWARD = 3.0  # an update costs about three forward passes
_MARGIN = 1.25  # of what evaluations are expected to take


class _TimeIsUpError(Exception):
    """Ends a training whose time has passed."""


@dataclass
class Trial(Method):
    """Training that ends when its time is up or its updates are done.

    Args:
        until: when, by `time.perf_counter`.
        teacher: answers beside the labels.
        distillation: weights of the losses with a teacher.
    """

    until: float
    teacher: Teacher | None = None
    distillation: Distillation = Distillation()  # noqa: RUF009 - frozen
    passes: int = 0

    def loss(self, tuned: Tuned, form: Format, batch: Batch) -> Tensor:
        """Of the labels, or of labels and teacher."""
        if time.perf_counter() > self.until and self.passes:
            raise _TimeIsUpError
        self.passes += 1
        if self.teacher is None:
            return form.loss(tuned(batch), batch)
        logits, student = say(tuned, form, batch, self.teacher.layers)
        return total_loss(form.loss(logits, batch), student, self.teacher.answer(batch), self.distillation)


@dataclass(frozen=True)
class Outcome:
    """What a trial gave: scores on dev, updates done, seconds they took."""

    scores: Scores
    updates: int
    seconds: float


@dataclass(frozen=True)
class Bench:
    """Where trials are made.

    Args:
        backbone: the new base.
        task: with the examples that trials may use.
        config: learning rate, batch size and seeds; a learning rate of None is chosen by the delta.
        updates: of each trial; None trains until its time is up.
    """

    backbone: Backbone
    task: Task
    config: TuneConfig
    updates: int | None = None

    def form(self, saved: Saved) -> Format:
        """How the task is asked with the deltas of `saved`."""
        return build_format(self.backbone, self.task, self.config.task.max_length, saved.configs)

    def attached(self, saved: Saved) -> Tuned:
        """Fresh deltas like those of `saved`."""
        return attach(self.backbone, *saved.configs, generator=torch.Generator().manual_seed(self.config.init_seed))

    def run(self, tuned: Tuned, form: Format, saved: Saved, method: Trial) -> Outcome:
        """Train `tuned` from where it is; the scores are those of its last values."""
        train = replace(self.config.train, steps=self.updates or _MANY, eval_every=_MANY, select="last", log_every=_MANY)
        config = replace(self.config, train=train, deltas=saved.configs)
        begun = time.perf_counter()
        scores: Scores | None = None
        try:
            scores = tune_prepared(config, tuned, form, self.task, Hooks(progress=False), method=method).dev
        except _TimeIsUpError:
            if self.updates is not None:
                raise DeltatuneError(
                    f"--updates {self.updates} took longer than was measured; raise --budget or leave --updates out"
                ) from None
        seconds = time.perf_counter() - begun
        return Outcome(scores or evaluate(tuned, form, self.task.dev), method.passes, seconds)


def training(lr: float | None, batch_size: int, seed: int) -> TrainConfig:
    """How trials train: a constant rate, so that a training that ends early was the same until then."""
    return TrainConfig(
        optimizer=OptimizerConfig(lr=lr, schedule="constant"), batch_size=batch_size, data_seed=seed, dropout_seed=seed
    )


def seconds_for_each(clock: Clock, trials: int, scoring: float, hearing: float, example: float, batch: int) -> float:
    """How long each of `trials` trainings may take.

    Args:
        clock: of the budget.
        trials: how many trainings there will be.
        scoring: seconds of one evaluation on dev.
        hearing: seconds in all for the answers of teachers.
        example: seconds of one example's forward pass.
        batch: examples in an update.

    Raises:
        DeltatuneError: the rest of the budget has no room for `LEAST_UPDATES` in each.
    """
    fixed = _MARGIN * (trials * scoring + hearing)
    least = LEAST_UPDATES * _BACKWARD * batch * example
    clock.require(fixed + trials * least, f"{trials} short trainings")
    return (clock.budget - clock.spent - fixed) / trials


def update_seconds(example: float, batch: int) -> float:
    """About how long an update takes."""
    return _BACKWARD * batch * example
