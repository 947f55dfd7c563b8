"""Sources whose hidden units do not stand in one order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from deltatune.ensemble.sources import Source

DOWN, UP = ".houlsby_down.weight", ".houlsby_up.weight"


def with_units_shuffled(one: Source, seed: int) -> Source:
    """The same function of the input, its hidden units in another order in every adapter."""
    generator = torch.Generator().manual_seed(seed)
    weights = dict(one.saved.weights)
    for name in one.saved.weights:
        if name.endswith(DOWN):
            up = name.removesuffix(DOWN) + UP
            order = torch.randperm(len(weights[name]), generator=generator)
            weights[name], weights[up] = weights[name][order], weights[up][:, order]
    return replace(one, saved=replace(one.saved, weights=weights))
