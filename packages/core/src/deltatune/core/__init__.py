"""The core of deltatune: deltas of pre-trained language models as vectors in a named space.

The names below are the public ones (see `docs/stability.md`). They are imported on first use, so that `deltatune --help` does
not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatune.core.backbone import Backbone, BackboneConfig, untie, wrap
    from deltatune.core.checkpoint import Saved, load, read, save
    from deltatune.core.data import Example, Task, TaskConfig, load_task
    from deltatune.core.delta import BitFit, Full, Houlsby, LoRA, Modules, Prefix, SoftPrompt, Tuned, attach, forward_with
    from deltatune.core.errors import DeltatuneError
    from deltatune.core.evaluation import Scores, evaluate
    from deltatune.core.loading import load_backbone
    from deltatune.core.sites import Sites, read_sites
    from deltatune.core.train import History, TrainConfig, fit
    from deltatune.core.tune_config import TaskChoice, TuneConfig
    from deltatune.core.tuning import tune
    from deltatune.core.weights import (
        Weights,
        add,
        combine,
        cosine,
        difference,
        distance,
        flatten,
        lerp,
        unflatten,
    )

_HOMES = {
    "backbone": ("Backbone", "BackboneConfig", "untie", "wrap"),
    "checkpoint": ("Saved", "load", "read", "save"),
    "data": ("Example", "Task", "TaskConfig", "load_task"),
    "delta": ("BitFit", "Full", "Houlsby", "LoRA", "Modules", "Prefix", "SoftPrompt", "Tuned", "attach", "forward_with"),
    "errors": ("DeltatuneError",),
    "evaluation": ("Scores", "evaluate"),
    "loading": ("load_backbone",),
    "sites": ("Sites", "read_sites"),
    "train": ("History", "TrainConfig", "fit"),
    "tune_config": ("TaskChoice", "TuneConfig"),
    "tuning": ("tune",),
    "weights": ("Weights", "add", "combine", "cosine", "difference", "distance", "flatten", "lerp", "unflatten"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BitFit",
    "DeltatuneError",
    "Example",
    "Full",
    "History",
    "Houlsby",
    "LoRA",
    "Modules",
    "Prefix",
    "Saved",
    "Scores",
    "Sites",
    "SoftPrompt",
    "Task",
    "TaskChoice",
    "TaskConfig",
    "TrainConfig",
    "TuneConfig",
    "Tuned",
    "Weights",
    "add",
    "attach",
    "combine",
    "cosine",
    "difference",
    "distance",
    "evaluate",
    "fit",
    "flatten",
    "forward_with",
    "lerp",
    "load",
    "load_backbone",
    "load_task",
    "read",
    "read_sites",
    "save",
    "tune",
    "unflatten",
    "untie",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
