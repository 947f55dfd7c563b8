"""Recycling as methods of `tune_to`: start from an outdated delta, learn from an outdated model, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core import checkpoint
from deltatune.core.backbone import Device
from deltatune.core.batches import Batch
from deltatune.core.data import Task
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.formats import Format
from deltatune.core.method import Method
from deltatune.core.reuse import TunedRun, open_run
from deltatune.recyclable.distill import Distillation, total_loss
from deltatune.recyclable.recycle import AS_IT_IS, Recycling, put
from deltatune.recyclable.teacher import Teacher, say


@dataclass
class Recycle(Method):
    """Tuning that makes use of an outdated delta.

    Args:
        start: the run whose values are the start; None starts fresh.
        how: what is taken over from it.
        teacher: the run that teaches; None trains on the labels alone.
        teacher_model: where the teacher's base is now; by default where its run found it.
        distillation: weights of the losses, with a teacher.
        train_head: whether the task head is trained (False: the published adapter programs froze it, defect D2).
        init_seed: of the random head that `arithmetic` subtracts.
        device: of the teacher.
    """

    start: Path | None = None
    how: Recycling = AS_IT_IS
    teacher: Path | None = None
    teacher_model: str | None = None
    distillation: Distillation = field(default_factory=Distillation)
    train_head: bool = True
    init_seed: int = 0
    device: Device = "auto"
    _asked: Teacher | None = field(default=None, repr=False)

    def settings(self) -> Mapping[str, Any]:
        """See `Method`; deltas by place and digest."""
        found: dict[str, Any] = {"train_head": self.train_head}
        if self.start is not None:
            found |= {"start": identity(self.start), **asdict(self.how)}
        if self.teacher is not None:
            found |= {"teacher": identity(self.teacher), "distillation": asdict(self.distillation)}
        return found

    def begin(self, tuned: Tuned, form: Format, task: Task) -> Mapping[str, Scores]:
        """Take over the start and score it; wake the teacher.

        Raises:
            DeltatuneError: start or teacher do not fit the task or the model.
        """
        scores: dict[str, Scores] = {}
        if self.start is not None:
            opened = open_run(self.start)
            if self.how.head_init != "fresh":
                require_labels(opened, task)
            put(opened.saved, tuned, self.how, torch.Generator().manual_seed(self.init_seed + 1))
            scores = {split: evaluate(tuned, form, part) for split, part in (("dev", task.dev), ("test", task.test)) if part}
        if self.teacher is not None:
            opened = open_run(self.teacher)
            backbone = opened.backbone(self.teacher_model, self.device, tuned.backbone.precision)
            taught = opened.format(backbone, task)
            self._asked = Teacher(opened.attach(backbone), taught, layers=bool(self.distillation.beta))
            self._asked.hear(task.train, form, form.features(task.train))
        return scores

    def loss(self, tuned: Tuned, form: Format, batch: Batch) -> Tensor:
        """Of the labels alone, or L of `deltatune.recyclable.distill`."""
        if self._asked is None:
            return super().loss(tuned, form, batch)
        logits, student = say(tuned, form, batch, self._asked.layers)
        return total_loss(form.loss(logits, batch), student, self._asked.answer(batch), self.distillation)

    def trained(self, tuned: Tuned) -> Mapping[str, Tensor]:
        """All tensors, or all but the head's."""
        head = () if self.train_head else tuned.head_names
        found = {name: parameter for name, parameter in tuned.parameters_by_name().items() if name not in head}
        if not found:
            raise DeltatuneError("--train_head false leaves nothing to train; choose a delta beside the head")
        return found


def require_labels(opened: TunedRun, task: Task) -> None:
    """Require that the head of a run knows the labels of `task`, in this order; a run without head or labels passes.

    Raises:
        DeltatuneError: other labels.
    """
    if opened.saved.head and opened.labels is not None and opened.labels != task.labels:
        known, asked = ", ".join(opened.labels), ", ".join(task.labels)
        raise DeltatuneError(
            f"{opened.path}: its head knows the labels {known}, and task {task.name} has {asked}; start with --head_init fresh"
        )


def identity(path: Path) -> dict[str, str]:
    """Where a delta is and what it holds."""
    about = checkpoint.describe(checkpoint.locate(path))
    return {"path": path.as_posix(), "digest": about["tensors_sha256"]}
