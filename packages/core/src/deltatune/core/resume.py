"""The state of an interrupted run: a file of tensors, numbers, text and lists, written whole or not at all.

Where each process of a launch holds a part of what is trained, each writes a file of its own, named by the update, and a state
is there once all have; so a launch killed while it saves goes on from the state before.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError, SharedError
from deltatune.core.files import replacing
from deltatune.core.processes import Processes

STATE_FILE = "state.pt"
PART = re.compile(r"state-(\d+)-(\d+)-of-(\d+)\.pt")  # update, process, processes
REPORTING = ("log_every", "save_every")  # settings that may differ on resuming: they change no weight


def has_state(folder: Path) -> bool:
    """Whether `folder` holds a whole state, that of one process or the parts of all."""
    return (folder / STATE_FILE).is_file() or _newest(folder) is not None


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` to `folder/state.pt`.

    Raises:
        DeltatuneError: the folder cannot be written or the disk is full; an earlier state is kept.
    """
    _write(folder / STATE_FILE, state)


def save_part(folder: Path, state: dict[str, Any], step: int, processes: Processes) -> None:
    """Write this process's part of the state after update `step`; all processes call it. Then earlier states are removed.

    Raises:
        SharedError: one of them cannot write; an earlier state is kept.
    """
    processes.agree(lambda: _write(folder / _part(step, processes.rank, processes.count), state))
    if processes.rank == 0:
        kept = {_part(step, rank, processes.count) for rank in range(processes.count)}
        for path in folder.iterdir():
            if PART.fullmatch(path.name) and path.name not in kept:
                path.unlink()


def load_state(
    folder: Path, config: dict[str, Any], params: Mapping[str, Tensor], processes: Processes | None = None
) -> dict[str, Any]:
    """The state in `folder`, its tensors on the CPU, checked to belong to `config` and `params`.

    Args:
        folder: where it is.
        config: of the run.
        params: what is trained, here.
        processes: those of the launch, where each holds a part of that; all call this.

    Raises:
        DeltatuneError: the file is missing, damaged or not plain data, or belongs to another configuration, delta or number of
            processes.
    """
    path = _path(folder, processes)
    return _read(path, config, params) if processes is None else processes.agree(lambda: _read(path, config, params))


def _path(folder: Path, processes: Processes | None) -> Path:
    """The file to read here; errors are met by all processes alike."""
    count, whole, newest = processes.count if processes else 1, folder / STATE_FILE, _newest(folder)
    if processes is not None and newest is not None and newest[1] == count:
        return folder / _part(newest[0], processes.rank, count)
    if processes is None and whole.is_file():
        return whole
    if newest is not None:
        now = f"{count} hold parts" if processes else "each holds all"
        raise SharedError(
            f"cannot resume from {folder}: {newest[1]} processes saved it, each its part of what is trained, and now {now}; "
            f"launch {newest[1]} that divide it, or start anew"
        )
    if whole.is_file():
        raise SharedError(
            f"cannot resume from {folder}: saved by processes that each held all that is trained, and now {count} hold parts; "
            "go on undivided, or start anew"
        )
    raise DeltatuneError(f"cannot resume: there is no {whole}; start anew, or name the folder of the interrupted run")


def _part(step: int, rank: int, count: int) -> str:
    return f"state-{step}-{rank}-of-{count}.pt"


def _newest(folder: Path) -> tuple[int, int] | None:
    """(update, processes) of the newest state of which all parts are there."""
    names = [match for path in (folder.iterdir() if folder.is_dir() else ()) if (match := PART.fullmatch(path.name))]
    held = [(int(match[1]), int(match[3])) for match in names]
    return max((key for key in set(held) if held.count(key) == key[1]), default=None)


def _write(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as target:
        try:
            torch.save(state, target)
        except RuntimeError as error:  # so torch's writer reports that bytes did not arrive
            raise DeltatuneError(
                f"cannot write {path}: the disk may be full ({_first_line(error)}); free some space, run again"
            ) from error


def _read(path: Path, config: dict[str, Any], params: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved, tensors = dict(state["config"]), dict(state["params"])
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
        raise DeltatuneError(f"cannot resume from {path}: damaged or no training state; delete it to start anew") from error
    for name in (name for name in config if name not in REPORTING and config[name] != saved.get(name)):
        raise DeltatuneError(
            f"cannot resume from {path}: {name} was {saved.get(name)} and is {config[name]}; put it back or start anew"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in params.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in (name for name in {**shapes, **found} if shapes.get(name) != found.get(name)):
        raise DeltatuneError(f"cannot resume from {path}: {name} is {found.get(name)} there, {shapes.get(name)} here; start anew")
    return dict(state)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
