"""The state of an interrupted run: one file of tensors, numbers, text and lists, written whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import replacing

STATE_FILE = "state.pt"
REPORTING = ("log_every", "save_every")  # settings that may differ on resuming: they change no weight


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` to `folder/state.pt`.

    Raises:
        DeltatuneError: the folder cannot be written or the disk is full; an earlier state is kept.
    """
    with replacing(folder / STATE_FILE) as target:
        try:
            torch.save(state, target)
        except RuntimeError as error:  # so torch's writer reports that bytes did not arrive
            raise DeltatuneError(
                f"cannot write {folder / STATE_FILE}: the disk may be full ({_first_line(error)}); free some space, run again"
            ) from error


def load_state(folder: Path, config: dict[str, Any], params: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state in `folder/state.pt`, its tensors on the CPU, checked to belong to `config` and `params`.

    Raises:
        DeltatuneError: the file is missing, damaged or not plain data, or belongs to another configuration or delta.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise DeltatuneError(f"cannot resume: there is no {path}; start anew, or name the folder of the interrupted run")
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
