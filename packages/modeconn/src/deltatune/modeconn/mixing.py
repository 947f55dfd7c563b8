"""Learned mixing of two models: each group of tensors has a weight of its own.

theta_g = sigma(w_g) left + (1 - sigma(w_g)) right: as published, the first end gets sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from deltatune.core.sites import Sites
from deltatune.core.weights import Weights

By = Literal["block", "layer", "weight"]


def group_of(by: By, stacks: Sequence[str], sublayers: Sequence[Sequence[str]] = ()) -> Callable[[str], str]:
    """The function that names a tensor's group: its block, its sub-layer or the tensor itself; others are their own group.

    Args:
        by: how fine.
        stacks: paths of all blocks.
        sublayers: for `layer`, the paths inside a block that make up each of its sub-layers, in all blocks together.
    """
    groups = {place: place for place in stacks} if by == "block" else {}
    if by == "layer":
        groups = {place: f"{places[0]}" for places in sublayers for place in places}
    places = sorted(groups, key=len, reverse=True)

    def name_of(tensor: str) -> str:
        return next((groups[place] for place in places if tensor == place or tensor.startswith(place + ".")), tensor)

    return name_of


def grouping(by: By, sites: Sites, model: torch.nn.Module) -> Callable[[str], str]:
    """`group_of` for a model: blocks and sub-layers are those of its record."""
    blocks = [block for stack in sites.stacks for block in sites.blocks(model, stack)]
    return group_of(by, blocks, list(_sublayers(sites, model, blocks))) if by != "weight" else str


def _sublayers(sites: Sites, model: torch.nn.Module, blocks: Sequence[str]) -> list[list[str]]:
    """The modules of each sub-layer.

    Where a block has a list of sub-layers (T5's `layer`), an item of it is one; else the children of the block are shared out: to
    attention what holds an attention, to feed-forward the rest.
    """
    found: list[list[str]] = []
    for block in blocks:
        module = model.get_submodule(block)
        lists = [name for name, child in module.named_children() if isinstance(child, torch.nn.ModuleList)]
        if lists:
            found += [[f"{block}.{name}.{i}"] for name in lists for i in range(len(module.get_submodule(name)))]  # type: ignore[arg-type]
            continue
        attentions = {
            path.removeprefix(block + ".").split(".")[0]
            for item in sites.sublayers(model)
            if (path := item.attention or "").startswith(block + ".")
        }
        found += [[f"{block}.{name}"] for name in sorted(attentions)]
        found.append([f"{block}.{name}" for name, _ in module.named_children() if name not in attentions])
    return [places for places in found if places]


def numbered(names: Sequence[str], group: Callable[[str], str]) -> dict[str, int]:
    """Group name -> number, by first appearance."""
    found: dict[str, int] = {}
    for name in names:
        found.setdefault(group(name), len(found))
    return found


def mixed(left: Weights, right: Weights, logits: Tensor, number: Callable[[str], int]) -> dict[str, Tensor]:
    """sigma(w_g) left + (1 - sigma(w_g)) right, tensor by tensor; differentiable in `logits` (G,)."""
    shares = torch.sigmoid(logits)
    return {name: shares[number(name)] * left[name] + (1 - shares[number(name)]) * right[name] for name in left}


def first_logits(groups: int, std: float, seed: int) -> Tensor:
    """Weights w ~ N(0, std^2), (groups,): with the published 10 close to a random choice of one end for each group."""
    return std * torch.randn(groups, generator=torch.Generator().manual_seed(seed))
