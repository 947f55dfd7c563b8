"""Parameter-efficient weight ensembling: a start for a new task from many tasks' deltas.

The names below are the public ones, imported on first use so that `deltatune-ensemble --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatune.ensemble.measures import MEASURES, Measure
    from deltatune.ensemble.merging import merge, open_part, part_of, refactor
    from deltatune.ensemble.token_scores import token_sums
    from deltatune.ensemble.weight_scores import movement, weight_cosine
    from deltatune.ensemble.weighting import Softening, effective_number, manual_division, soften, uniform

_HOMES = {
    "measures": ("MEASURES", "Measure"),
    "merging": ("merge", "open_part", "part_of", "refactor"),
    "token_scores": ("token_sums",),
    "weight_scores": ("movement", "weight_cosine"),
    "weighting": ("Softening", "effective_number", "manual_division", "soften", "uniform"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "MEASURES",
    "Measure",
    "Softening",
    "effective_number",
    "manual_division",
    "merge",
    "movement",
    "open_part",
    "part_of",
    "refactor",
    "soften",
    "token_sums",
    "uniform",
    "weight_cosine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
