"""Mode connectivity of tuned pre-trained language models: what lies between two of them.

The names below are the public ones, imported on first use so that `deltatune-modeconn --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatune.modeconn.alignment import aligned, product_ends
    from deltatune.modeconn.bookkeeping import fates, transitions
    from deltatune.modeconn.curves import bernstein, polychain
    from deltatune.modeconn.datamap import Course, combine, hardness
    from deltatune.modeconn.gains import gain
    from deltatune.modeconn.geometry import plane
    from deltatune.modeconn.mixing import mixed
    from deltatune.modeconn.profiles import Profile, profile

_HOMES = {
    "alignment": ("aligned", "product_ends"),
    "bookkeeping": ("fates", "transitions"),
    "curves": ("bernstein", "polychain"),
    "datamap": ("Course", "combine", "hardness"),
    "gains": ("gain",),
    "geometry": ("plane",),
    "mixing": ("mixed",),
    "profiles": ("Profile", "profile"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Course",
    "Profile",
    "aligned",
    "bernstein",
    "combine",
    "fates",
    "gain",
    "hardness",
    "mixed",
    "plane",
    "polychain",
    "product_ends",
    "profile",
    "transitions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
