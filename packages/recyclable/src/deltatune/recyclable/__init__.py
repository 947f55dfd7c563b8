"""Recyclable Tuning: what old deltas are worth on an upgraded base model.

The names below are the public ones, imported on first use so that `deltatune-recyclable --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatune.recyclable.distill import Distillation, Side, logit_loss, patience_loss, total_loss
    from deltatune.recyclable.projection import Projection, learn, project
    from deltatune.recyclable.recycle import Recycling, moved, put
    from deltatune.recyclable.similarity import HeadCorrelation

_HOMES = {
    "distill": ("Distillation", "Side", "logit_loss", "patience_loss", "total_loss"),
    "projection": ("Projection", "learn", "project"),
    "recycle": ("Recycling", "moved", "put"),
    "similarity": ("HeadCorrelation",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Distillation",
    "HeadCorrelation",
    "Projection",
    "Recycling",
    "Side",
    "learn",
    "logit_loss",
    "moved",
    "patience_loss",
    "project",
    "put",
    "total_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
