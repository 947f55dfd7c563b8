"""One low-dimensional space in which adapter, LoRA and prefix are optimized.

The names below are the public ones, imported on first use so that `deltatune-subspace --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatune.subspace.coordinates import Coordinates
    from deltatune.subspace.intrinsic import Fastfood, draw_fastfood, fwht
    from deltatune.subspace.objective import Objective, encode_all, shares
    from deltatune.subspace.projections import Projection, draw
    from deltatune.subspace.space import Subspace, read, save

_HOMES = {
    "coordinates": ("Coordinates",),
    "intrinsic": ("Fastfood", "draw_fastfood", "fwht"),
    "objective": ("Objective", "encode_all", "shares"),
    "projections": ("Projection", "draw"),
    "space": ("Subspace", "read", "save"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Coordinates",
    "Fastfood",
    "Objective",
    "Projection",
    "Subspace",
    "draw",
    "draw_fastfood",
    "encode_all",
    "fwht",
    "read",
    "save",
    "shares",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
