"""Source deltas found in a folder: runs and delta folders of this project, and adapters of PEFT."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from deltatune.core import checkpoint, peft_format
from deltatune.core.backbone import Backbone, BackboneConfig, Device
from deltatune.core.checkpoint import Saved
from deltatune.core.combining import require_one_space
from deltatune.core.delta import Head
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.loading import load_backbone
from deltatune.core.reuse import open_run
from deltatune.core.weights import check_match
from deltatune.ensemble.taxonomy import short


@dataclass(frozen=True)
class Source:
    """A source delta.

    Args:
        name: of its folder.
        path: its folder.
        saved: the delta.
        task: short name of the task it was tuned on; its own name where none is recorded.
    """

    name: str
    path: Path
    saved: Saved
    task: str

    @property
    def digest(self) -> str:
        """Of its tensors."""
        return str(self.saved.digest or self.path)

    @property
    def delta(self) -> dict[str, Tensor]:
        """Its tensors without the task head."""
        return {name: tensor for name, tensor in self.saved.weights.items() if name not in self.saved.head}

    @property
    def kind(self) -> str:
        """What it consists of, without the head."""
        return " + ".join(type(config).__name__ for config in self.saved.configs if not isinstance(config, Head)) or "Head"


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Args:
        sources: of one kind and one base, by name.
        notes: warnings, such as of sources that did not start from equal values.
    """

    sources: dict[str, Source]
    notes: list[str] = field(default_factory=list)


def is_delta(path: Path) -> bool:
    """Whether `path` is a run, a delta folder or an adapter of PEFT."""
    inside = (checkpoint.ABOUT, checkpoint.CONFIG, f"delta/{checkpoint.ABOUT}")
    return any((path / name).is_file() for name in inside)


def is_peft(path: Path) -> bool:
    """Whether `path` is an adapter that PEFT wrote, which cannot be read without its base."""
    return (path / checkpoint.CONFIG).is_file() and not (path / checkpoint.ABOUT).is_file()


def folders(folder: Path) -> list[Path]:
    """The deltas directly below `folder`, sorted by name.

    Raises:
        DeltatuneError: no such folder, or no delta in it.
    """
    if not folder.is_dir():
        raise DeltatuneError(f"--sources {folder}: no such folder; give one that holds runs, delta folders or PEFT folders")
    if is_delta(folder):
        raise DeltatuneError(f"--sources {folder}: this is a single delta; give the folder that holds several of them")
    found = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".") and is_delta(path)]
    if not found:
        raise DeltatuneError(f"--sources {folder}: no run, delta folder or PEFT folder there; give the folder above them")
    return found


def base_of(paths: Sequence[Path], model: str | None, device: Device = "auto", num_labels: int | None = None) -> Backbone:
    """The base model of the sources, or `model`.

    Args:
        paths: folders of sources.
        model: where the base is now.
        device: where to compute.
        num_labels: classes of the head that is wanted; by default of the first source.

    Raises:
        DeltatuneError: adapters of PEFT alone and no model: they record a name at best.
    """
    own = next((path for path in paths if not is_peft(path)), None)
    if own is not None:
        return open_run(own).backbone(model, device, num_labels=num_labels)
    if model is None:
        raise DeltatuneError(f"{paths[0].parent}: adapters of PEFT do not hold their base; give it as --model")
    return load_backbone(BackboneConfig(model, device=device), num_labels or peft_format.num_labels(paths[0]))


def read_sources(paths: Sequence[Path], backbone: Backbone, other_base: bool = False) -> Found:
    """Read deltas of one kind that belong to `backbone`.

    Args:
        paths: their folders.
        backbone: their base.
        other_base: allow deltas that were tuned on a base with another digest.

    Raises:
        DeltatuneError: two names, another base without `other_base`, or deltas of other kinds, settings, names or shapes.
    """
    found = Found({})
    for path in paths:
        if path.name in found.sources:
            raise DeltatuneError(f"two sources are called {path.name}; rename one of the folders")
        found.sources[path.name] = _read(path, backbone)
    every = list(found.sources.values())
    for source in every:
        require_one_space(every[0].saved, source.saved, "ensemble", other_base=True)
        check_match(every[0].delta, source.delta, f"{every[0].name} and {source.name}")
        if not other_base and not is_peft(source.path):
            checkpoint.require_base(source.saved, backbone)
    foreign = [source.name for source in every if is_peft(source.path)]
    if foreign:
        found.notes.append(
            f"adapters of PEFT record no digest of their base: names and shapes fit {backbone.name} ({len(foreign)})"
        )
    found.notes.extend(_starts(every))
    return found


def _read(path: Path, backbone: Backbone) -> Source:
    saved = peft_format.import_adapter(path, backbone) if is_peft(path) else checkpoint.read(path)
    if saved.digest is None:  # PEFT records none
        tensors = hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in saved.weights.values()))
        saved = replace(saved, digest=tensors.hexdigest())
    task = saved.about.get("task")
    return Source(path.name, path, saved, short(str(task)) if task else path.name)


def _starts(every: Sequence[Source]) -> list[str]:
    """Whether the records of the runs say that all began with equal values: averages of others mean little.

    Without `tune-all`, a head draws its values before the delta, so one seed and heads of other widths begin elsewhere.
    """
    found: dict[tuple[str, ...], str] = {}
    for source in every:
        opened = None if is_peft(source.path) else open_run(source.path)
        if opened is None or not (opened.folder / "run.json").is_file():
            continue
        config = read_json(opened.folder / "run.json").get("config", {})
        if "init_seed" in config:
            common = "common_start" in config.get("method", {})
            rows = "any" if common or not source.saved.head else str(opened.num_labels)
            found.setdefault((str(config["init_seed"]), str(config.get("start")), rows), source.name)
    if len(found) < 2:
        return []
    firsts = ", ".join(f"{name} (seed {key[0]}, classes {key[2]})" for key, name in list(found.items())[:3])
    return [
        f"the sources did not begin with equal values: {firsts}; averages of them may mean little; `tune-all` gives one start"
    ]


def others(sources: dict[str, Source], target: str) -> dict[str, Source]:
    """The sources but the target's own: what was tuned on the task, or has its name.

    Raises:
        DeltatuneError: none is left.
    """
    left = {name: source for name, source in sources.items() if target not in (name, source.task)}
    if not left:
        raise DeltatuneError(f"no source for {target} but its own, which is never used; give more sources")
    return left
