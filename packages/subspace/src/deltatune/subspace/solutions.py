"""The solutions that a subspace is made of: deltas tuned from common initial values, one folder a task and delta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.core.combining import other_meaning
from deltatune.core.delta import DeltaConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.reuse import TunedRun, open_run
from deltatune.subspace.initial import Initial
from deltatune.subspace.splits import folder_of


def place_of(root: Path, task: str, name: str) -> Path:
    """Where the solution of a task with a delta is below a root; names are matched as a whole."""
    return root / folder_of(task) / name


def tasks_of(roots: Sequence[Path], names: Sequence[str]) -> list[str]:
    """The tasks that have a solution below the first root, by the names their runs record, in order of their folders.

    Raises:
        DeltatuneError: none.
    """
    found = []
    for folder in sorted(path for path in roots[0].glob("*") if path.is_dir()):
        run = folder / names[0] / "run.json"
        if run.is_file() and (task := read_json(run).get("config", {}).get("task", {}).get("task")):
            found.append(str(task))
    if not found:
        raise DeltatuneError(f"{roots[0]}: no solution TASK/{names[0]} here; make them with `train-delta --out_dir {roots[0]}`")
    return found


def find_solutions(roots: Sequence[Path], tasks: Sequence[str], initial: Initial) -> dict[str, dict[str, list[TunedRun]]]:
    """Task -> delta -> its solutions, one a root.

    Raises:
        DeltatuneError: one is missing, unfinished, of other settings, on another base, or tuned from other initial values.
    """
    missing = [
        path
        for task in tasks
        for name in initial.saved
        for root in roots
        if not (path := place_of(root, task, name)).joinpath("delta").is_dir()
    ]
    if missing:
        raise DeltatuneError(
            f"{len(missing)} solutions are missing, the first is {missing[0]}; use `train-delta`, or give other --tasks"
        )
    return {
        task: {name: [open_solution(place_of(root, task, name), name, initial) for root in roots] for name in initial.saved}
        for task in tasks
    }


def open_solution(path: Path, name: str, initial: Initial) -> TunedRun:
    """A run that was tuned from the initial values of `name`; errors as `find_solutions`."""
    opened, start = open_run(path), initial.saved[name]
    require_kind(opened, start.configs, start.base, str(initial.path / name))
    require_start(opened, str(start.digest), str(initial.path / name))
    return opened


def require_kind(opened: TunedRun, configs: Sequence[DeltaConfig], base: Mapping[str, Any], where: str) -> None:
    """Require a run of a delta with the settings `configs`, on the model `base`; `where` these are, for what is said.

    Raises:
        DeltatuneError: other settings, or another base.
    """
    if (found := other_meaning(opened.saved.configs, configs)) is not None:
        raise DeltatuneError(f"{opened.path}: other settings than those of {where} ({found}); tune it from there")
    if opened.saved.base["digest"] != base["digest"]:
        raise DeltatuneError(f"{opened.path}: tuned on another base than {where} is for; tune it from there")


def require_start(opened: TunedRun, start: str, where: str) -> None:
    """Require a run that was tuned from values of digest `start`.

    Raises:
        DeltatuneError: from others.
    """
    facts = read_json(opened.folder / "run.json") if (opened.folder / "run.json").is_file() else {}
    digest = (facts.get("start") or {}).get("digest")
    if digest != start:
        was = f"from values of digest {str(digest)[:12]}" if digest else "from values of its own"
        raise DeltatuneError(
            f"{opened.path}: tuned {was}, and {where} has digest {start[:12]}; a solution counts as a "
            "difference to the common initial values, so tune it from there (`train-delta`)"
        )
