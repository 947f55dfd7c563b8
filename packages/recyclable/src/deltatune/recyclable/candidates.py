"""Outdated deltas found in a folder: runs and delta folders of this project, and LoRA folders of PEFT."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deltatune.core import checkpoint, peft_format
from deltatune.core.backbone import Backbone, Form
from deltatune.core.checkpoint import Saved
from deltatune.core.data import Task
from deltatune.core.delta import Head
from deltatune.core.errors import DeltatuneError


@dataclass(frozen=True)
class Candidate:
    """An outdated delta that fits the old base.

    Args:
        name: its place below the folder searched.
        saved: the delta.
        known_base: whether its digest says that the old base is the one it was tuned on.
        notes: what was checked, and warnings.
    """

    name: str
    saved: Saved
    known_base: bool
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it consists of, without the head."""
        return " + ".join(type(c).__name__ for c in self.saved.configs if not isinstance(c, Head)) or "Head"


@dataclass(frozen=True)
class Search:
    """What a folder holds.

    Args:
        found: deltas that can be tried.
        skipped: name -> why not.
    """

    found: list[Candidate] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def search(folder: Path, old: Backbone, task: Task) -> Search:
    """Read every delta in `folder`: itself, or its sub-folders, sorted by name.

    Raises:
        DeltatuneError: no such folder, or no delta in it.
    """
    result = Search()
    for place in _places(folder):
        try:
            result.found.append(_read(place, old, task))
        except DeltatuneError as error:
            result.skipped[place.name] = str(error)
    return result


def form_of(folder: Path) -> Form | Literal["auto"]:
    """The form in which the deltas of `folder` were tuned; "auto" where none of them records it.

    Raises:
        DeltatuneError: no delta there, or of several forms.
    """
    found: dict[Form, str] = {}
    for place in _places(folder):
        if _is_ours(place):
            with contextlib.suppress(DeltatuneError):  # `search` says what is wrong with it
                found.setdefault(checkpoint.describe(checkpoint.locate(place))["base"].get("form", "head"), place.name)
    if len(found) > 1:
        said = ", ".join(f"{name} in {form}" for form, name in found.items())
        raise DeltatuneError(f"--deltas {folder}: tuned in several forms ({said}); say which to try with --form")
    return next(iter(found), "auto")


def _places(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DeltatuneError(f"--deltas {folder}: no such folder; give one that holds runs, delta folders or PEFT folders")
    places = [folder] if _is_one(folder) else [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_one(path)]
    if not places:
        raise DeltatuneError(f"--deltas {folder}: no run, delta folder or PEFT folder there; give the folder above them")
    return places


def _is_ours(place: Path) -> bool:
    return (place / checkpoint.ABOUT).is_file() or (place / "delta" / checkpoint.ABOUT).is_file()


def _is_one(path: Path) -> bool:
    inside = (checkpoint.ABOUT, checkpoint.CONFIG, f"delta/{checkpoint.ABOUT}")
    return any((path / name).is_file() for name in inside)


def _read(place: Path, old: Backbone, task: Task) -> Candidate:
    ours = _is_ours(place)
    saved = checkpoint.read(place) if ours else peft_format.import_adapter(place, old)
    if ours and (form := saved.base.get("form", old.form)) != old.form:
        raise DeltatuneError(f"it was tuned in form {form}, and tried is {old.form}; give --form {form}")
    labels = saved.about.get("labels")
    if saved.head and labels is not None and tuple(labels) != task.labels:
        raise DeltatuneError(f"its head knows the labels {', '.join(labels)}, and task {task.name} has {', '.join(task.labels)}")
    checkpoint.attach_saved(saved, old, other_base=True).detach()  # names and shapes
    fits = f"{len(saved.weights)} names and shapes fit {old.name}"
    if ours and saved.base.get("digest") == old.digest:
        notes = [f"tuned on {old.name} (equal digest)"]
    elif ours:
        notes = [f"warning: tuned on {saved.base.get('name')}, whose digest is not that of {old.name}; checked instead: {fits}"]
    else:
        named = saved.about["imported"].get("base_model_name_or_path")
        same = "the name of its base is equal" if named == old.name else f"it names the base {named}, not {old.name}"
        notes = [f"warning: PEFT records no digest of the base; checked instead: {fits}, {same}, and its score on {old.name}"]
    if labels is None:
        notes.append(f"warning: records no labels; taken to be {', '.join(task.labels) or 'none'}, in this order")
    return Candidate(place.name, saved, ours and saved.base.get("digest") == old.digest, tuple(notes))
