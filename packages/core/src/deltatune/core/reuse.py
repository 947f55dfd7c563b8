"""A finished run, or any delta folder, taken up again: its delta, its base model, its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from deltatune.core import checkpoint
from deltatune.core.backbone import Backbone, BackboneConfig, Device, Form
from deltatune.core.checkpoint import Saved
from deltatune.core.data import Task
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.formats import Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.sites import Sites, sites_from
from deltatune.core.tune_config import ASKING, TaskChoice


@dataclass(frozen=True)
class TunedRun:
    """What is kept of a run.

    Args:
        path: as the user gave it: a run, RUN@STEP or a delta folder.
        folder: the run's folder; the delta folder itself where there is no run around it.
        saved: the delta.
        settings: of base and task, as the delta folder or the run around it records them; empty where neither does.
    """

    path: Path
    folder: Path
    saved: Saved
    settings: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The labels in the order of the head's rows; None if nobody recorded them."""
        found = self.saved.about.get("labels")
        return None if found is None else tuple(found)

    def task_choice(self, task: str | None = None, data_dir: Path | None = None, whole: bool = False) -> TaskChoice:
        """The run's task with the run's sample of it; or another task, or the same elsewhere.

        Args:
            task: another task than the recorded one.
            data_dir: where its files are now.
            whole: every example, not the run's sample (`shots`, `max_train`, `max_dev`, `max_test`).

        Raises:
            DeltatuneError: no task was recorded and none is given.
        """
        before = self.settings.get("task") or {}
        recorded = before.get("task") or self.saved.about.get("task")
        name = task or recorded
        if name is None:
            raise DeltatuneError(f"{self.path}: no task is recorded with it; give --task")
        kept = before.get("data_dir") if name == recorded else None
        taken = {"max_length", *ASKING} if whole else {item.name for item in fields(TaskChoice)} - {"task", "data_dir"}
        sample = {key: value for key, value in before.items() if key in taken and value is not None}
        return TaskChoice(name, data_dir or (Path(kept) if kept else None), **sample)

    def backbone(
        self,
        model: str | None = None,
        device: Device = "auto",
        precision: Literal["fp32", "bf16"] | None = None,
        sites: Path | None = None,
        num_labels: int | None = None,
    ) -> Backbone:
        """The base model that the delta was tuned on, or `model` in its place, with a head as wide as the delta's.

        Args:
            model: a folder, a step of a series, or a hub name.
            device: where to compute.
            precision: the run's own by default.
            sites: record of the architecture; by default the one that the delta carries, if it was tuned with one.
            num_labels: classes of a head for another task than the delta's.
        """
        before = self.settings.get("backbone") or {}
        form: Literal["auto"] | Form = before.get("form") or self.saved.base.get("form") or "auto"
        config = BackboneConfig(
            model=model or before.get("model") or self.saved.base["name"],
            revision=None if model else before.get("revision"),
            form=form,
            device=device,
            precision=precision or before.get("precision") or "fp32",
            sites=sites or self._sites(before.get("sites")),
        )
        return load_backbone(config, num_labels=self.num_labels if num_labels is None else num_labels)

    def _sites(self, recorded: Any) -> Path | Sites | None:
        """A run names the file of a record, a delta folder holds the record itself."""
        return sites_from(recorded, str(self.path)) if isinstance(recorded, Mapping) else Path(recorded) if recorded else None

    @property
    def num_labels(self) -> int | None:
        """Rows of the head's last matrix; None without a head."""
        matrices = [name for name in self.saved.head if self.saved.weights[name].dim() == 2 and "pooler" not in name]
        return self.saved.weights[matrices[-1]].shape[0] if matrices else None

    def attach(self, backbone: Backbone, other_base: bool = False) -> Tuned:
        """The delta attached to `backbone`; see `checkpoint.load`."""
        return checkpoint.attach_saved(self.saved, backbone, other_base)

    def format(self, backbone: Backbone, task: Task) -> Format:
        """How `task` is asked.

        Raises:
            DeltatuneError: the head knows other labels, or another number of them; or the task was asked in a form of a paper's.
        """
        if (package := self.saved.about.get("asked_by")) is not None:
            raise DeltatuneError(
                f"{self.path}: its task was asked in a form of {package}; score it with the commands of that package"
            )
        # A prompt or a text carries the task's own words; a head has a row for each label that it was tuned for.
        if backbone.form == "head" and self.labels is not None and self.labels != task.labels:
            known, asked = ", ".join(self.labels), ", ".join(task.labels)
            raise DeltatuneError(f"{self.path}: its head knows the labels {known}, and task {task.name} has {asked or 'none'}")
        wanted = 1 if task.regression else len(task.labels)
        if backbone.form == "head" and self.num_labels not in (None, wanted):
            raise DeltatuneError(f"{self.path}: its head has {self.num_labels} rows, and task {task.name} needs {wanted}")
        return build_format(backbone, task, self.task_choice(task.name).max_length, self.saved.configs)

    def note_on(self, task: Task) -> str | None:
        """What a reader of scores on `task` should know: it is not the data that the run was tuned and selected on."""
        before = self.saved.about.get("data_digest")
        if before in (None, task.digest):
            return None
        return f"other examples of {task.name} than {self.path} was tuned with (digest {task.digest[:12]}, then {before[:12]})"


def open_run(path: Path) -> TunedRun:
    """Read the run, snapshot or delta folder that `path` addresses.

    Raises:
        DeltatuneError: nothing there, or damaged (see `checkpoint.read`).
    """
    saved = checkpoint.read(path)
    inside = saved.path or path
    folder = next((parent for parent in (inside.parent, inside.parent.parent) if (parent / "run.json").is_file()), inside)
    settings = saved.about.get("settings") or (read_json(folder / "run.json").get("config", {}) if folder != inside else {})
    return TunedRun(path, folder, saved, settings)
