"""A base in memory and the sources that take turns in it, for one target after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from deltatune.core import checkpoint
from deltatune.core.backbone import Device
from deltatune.core.data import Task
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import build_format
from deltatune.core.tune_config import TaskChoice
from deltatune.core.weights import check_match
from deltatune.ensemble.heads import HeadOf, settle
from deltatune.ensemble.scoring import Budget, Target
from deltatune.ensemble.sources import Source, base_of, folders, read_sources


@dataclass(frozen=True)
class Prepared:
    """A target with its sources.

    Args:
        name: short name of the target.
        target: ready to be scored on.
        sources: all, the target's own included.
        head: whose head answers.
        notes: what a reader of the results should know.
    """

    name: str
    target: Target
    sources: Mapping[str, Source]
    head: Literal["none", "source", "probe"]
    notes: tuple[str, ...] = ()

    def complete(self, name: str) -> dict[str, Tensor]:
        """The delta of source `name` with the head that answers for it."""
        saved = self.sources[name].saved
        own = {key: saved.weights[key] for key in saved.head} if self.head == "source" else None
        return self.target.with_head(self.sources[name].delta, own)


@dataclass
class Bench:
    """Loads the base once for all targets of one width of head.

    Args:
        folder: of the sources.
        model: where their base is now.
        device: where to compute.
        head: whose head answers for a target.
        other_base: allow sources of another base.
        reference: folder of deltas tuned on the targets, by short name of the target.
    """

    folder: Path
    model: str | None = None
    device: Device = "auto"
    head: HeadOf = "auto"
    other_base: bool = False
    reference: Path | None = None
    paths: list[Path] = field(default_factory=list)
    _tuned: Tuned | None = field(default=None, repr=False)
    _rows: int | None = field(default=None, repr=False)
    _start: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _found: dict[str, Source] = field(default_factory=dict, repr=False)
    _notes: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.paths = folders(self.folder)

    def prepare(self, name: str, choice: TaskChoice, budget: Budget) -> Prepared:
        """A target ready to be scored on.

        Raises:
            DeltatuneError: whatever does not fit: base, sources, task, heads, reference.
        """
        task = choice.load()
        tuned = self._attached(1 if task.regression else max(1, len(task.labels)))
        form = build_format(tuned.backbone, task, choice.max_length, next(iter(self._found.values())).saved.configs)
        labels = [_labels(source) for source in self._found.values()]
        head = settle(self.head, labels, task.labels, bool(tuned.head_names))
        reference = self._reference(name, task, tuned) if self.reference is not None else None
        target = Target(tuned, form, task, budget, reference, head == "probe", self._start)
        return Prepared(name, target, self._found, head, (*task.notes, *self._notes))

    def _attached(self, rows: int) -> Tuned:
        if self._tuned is None or (self._rows != rows and self._tuned.head_names):
            backbone = base_of(self.paths, self.model, self.device, rows)
            found = read_sources(self.paths, backbone, self.other_base)
            self._found, self._notes, self._rows = found.sources, found.notes, rows
            first = next(iter(found.sources.values())).saved
            kinds = [config for config in first.configs if type(config).__name__ != "Head"]
            self._tuned = attach(backbone, *kinds)
            own = self._tuned.weights()
            self._start = {name: own[name].cpu() for name in self._tuned.head_names}
        return self._tuned

    def _reference(self, name: str, task: Task, tuned: Tuned) -> dict[str, Tensor]:
        path = (self.reference or Path()) / name
        if not path.is_dir():
            raise DeltatuneError(
                f"--reference {self.reference}: no run called {name} in it; tune the target first (tune-all, or tune)"
            )
        saved = checkpoint.read(path)
        checkpoint.require_base(saved, tuned.backbone)
        check_match(tuned.parameters_by_name(), saved.weights, f"the sources and the reference {path}")
        known = saved.about.get("labels")
        if saved.head and known is not None and tuple(known) != task.labels:
            raise DeltatuneError(f"{path}: its head knows the labels {', '.join(known)}, and {name} has {', '.join(task.labels)}")
        return saved.weights


def _labels(source: Source) -> tuple[str, ...] | None:
    found: Sequence[str] | None = source.saved.about.get("labels")
    return None if found is None or not source.saved.head else tuple(found)
