"""Everything that decides the outcome of one tuning run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deltatune.core.backbone import BackboneConfig
from deltatune.core.data import Half, Task, few_shots, halved, load_task
from deltatune.core.delta import DeltaConfig, Full, Houlsby, LoRA, Prefix, SoftPrompt
from deltatune.core.errors import DeltatuneError
from deltatune.core.resume import REPORTING
from deltatune.core.run import plain
from deltatune.core.train import TrainConfig

# Starting points that train on small and base models; the papers' own rates are in their packages' configurations.
LEARNING_RATES: dict[type[DeltaConfig], float] = {Full: 5e-5, LoRA: 1e-3, Houlsby: 1e-3, Prefix: 1e-2, SoftPrompt: 1e-2}


# How a task is asked; what is None is as the task's configuration says, and no part of a run's identity.
ASKING = ("template", "label_words", "first_sentence_limit", "other_sentence_limit")


@dataclass(frozen=True)
class TaskChoice:
    """Which examples.

    Args:
        task: a built-in name such as glue/rte, or a YAML task file.
        data_dir: the root of task folders, or the folder that holds the files.
        max_length: longest input in tokens.
        max_train: use the first N training examples.
        max_dev: use the first N dev examples; not together with `shots`, which draw their own.
        max_test: use the first N test examples.
        shots: train on this many examples of each class, and take as many others of the training examples for development; texts
            count as one class, values as two (below and above the middle of the range, or the median where it has no bounds).
        sample_seed: of the draw of `shots`.
        template: prompt with a mask in place of the task's own.
        label_words: words in place of the task's own.
        first_sentence_limit: see `TaskConfig`.
        other_sentence_limit: see `TaskConfig`.
        half: train on the first or the second half of the training examples, in their order; dev and test stay whole.
    """

    task: str
    data_dir: Path | None = None
    max_length: int = 256
    max_train: int | None = None
    max_dev: int | None = None
    max_test: int | None = None
    shots: int | None = None
    sample_seed: int = 0
    template: str | None = None
    label_words: Mapping[str, str] | None = field(default=None, hash=False)
    first_sentence_limit: int | None = None
    other_sentence_limit: int | None = None
    half: Half | None = None

    def __post_init__(self) -> None:
        """Refuse an option that could not act."""
        if self.shots is not None and self.max_dev is not None:
            raise DeltatuneError(
                f"--max_dev {self.max_dev} does not go with --shots {self.shots}, which takes as many dev examples of each class "
                "as training examples; leave one of them out"
            )
        if self.shots is not None and self.half is not None:
            raise DeltatuneError(f"--half {self.half} does not go with --shots {self.shots}; leave one of them out")

    def load(self) -> Task:
        """The task with its examples, sampled if so asked."""
        task = self._whole()
        if self.half is not None:
            return halved(task, self.half)
        return task if self.shots is None else few_shots(task, self.shots, self.sample_seed)

    def _whole(self) -> Task:
        asked = {name: value for name in ASKING if (value := getattr(self, name)) is not None}
        return load_task(
            self.task, self.data_dir, max_train=self.max_train, max_dev=self.max_dev, max_test=self.max_test, change=asked
        )


@dataclass(frozen=True)
class TuneConfig:
    """Everything that decides the outcome of one run.

    Args:
        backbone: the pre-trained model.
        task: the examples.
        deltas: what is attached; they act together.
        train: how long and how; a learning rate of None is chosen by the deltas.
        init_seed: of the deltas' and the head's initial values.
        start: a delta folder, a run or RUN@STEP whose values are the start.
        other_base: allow a start that was tuned on another base.
    """

    backbone: BackboneConfig
    task: TaskChoice
    deltas: tuple[DeltaConfig, ...]
    train: TrainConfig = field(default_factory=TrainConfig)
    init_seed: int = 0
    start: Path | None = None
    other_base: bool = False

    def identity(self) -> dict[str, Any]:
        """All settings as plain values; equal for runs that must end equal."""
        settings = {key: value for key, value in asdict(self).items() if key != "deltas"}
        for name in REPORTING:
            del settings["train"][name]
        settings["task"] = {name: v for name, v in settings["task"].items() if v is not None or name not in (*ASKING, "half")}
        return {**plain(settings), "deltas": [delta.describe() for delta in self.deltas]}

    @property
    def learning_rate(self) -> float:
        """The rate in force: the one given, or the smallest that the deltas ask for."""
        given = self.train.optimizer.lr
        return given if given is not None else min(LEARNING_RATES.get(type(delta), 1e-3) for delta in self.deltas)
