"""Putting outdated weights on an upgraded base: without training (direct apply) or as the start of training.

Backbone: theta_new + scale * (theta_tuned - theta_old), or the adapter itself. The head is copied from the tuned model; the
published program summed it like any other weight (`arithmetic`), which adds two unrelated random heads (defect D1).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deltatune.core.checkpoint import Saved
from deltatune.core.delta import BitFit, DeltaConfig, Full, Head, Houlsby, LoRA, Modules, Tuned
from deltatune.core.delta.base import fill_normal
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import Weights, add, check_match, difference, weighted_sum

HeadInit = Literal["copy", "arithmetic", "fresh"]


@dataclass(frozen=True)
class Recycling:
    """What is taken over from an old delta.

    Args:
        head_init: the classification head: copy (the tuned one), fresh (new random values, to see what the delta alone carries),
            or arithmetic (new + tuned - old of independent random draws, as published).
        scale: factor of the delta; 0 leaves only the head, to see what it alone carries.
    """

    head_init: HeadInit = "copy"
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check values."""
        if self.head_init not in ("copy", "arithmetic", "fresh"):
            raise DeltatuneError(f"head_init is {self.head_init!r}; choose copy, arithmetic or fresh")


AS_IT_IS = Recycling()


def moved(
    old: Weights, tuned: Weights, new: Weights, head: Collection[str], how: Recycling = AS_IT_IS
) -> dict[str, Tensor]:  # fmt: skip
    """A fine-tuned model carried to another base: new + scale * (tuned - old), the head by `how.head_init`.

    Args:
        old: all parameters of the old base, with the random head that it started from.
        tuned: the same after tuning.
        new: of the upgraded base, with a fresh head.
        head: names of the head's tensors.
        how: scale and head.

    Raises:
        DeltatuneError: other names or shapes.
    """
    check_match(old, tuned, "the old base and the tuned model")
    check_match(old, new, "the old and the new base")
    body = {name: tensor for name, tensor in tuned.items() if name not in head}
    result = add(new, difference(body, {name: old[name] for name in body}), how.scale)
    for name in head:
        parts = {"copy": (tuned[name],), "fresh": (new[name],), "arithmetic": (new[name], tuned[name], old[name])}[how.head_init]
        result[name] = weighted_sum(parts, (1.0, 1.0, -1.0)[: len(parts)]).to(new[name].dtype)
    return {name: result[name] for name in new}


def put(saved: Saved, tuned: Tuned, how: Recycling = AS_IT_IS, generator: torch.Generator | None = None) -> None:
    """Give `tuned`, freshly attached to the new base, the values of an old delta.

    Args:
        saved: the old delta.
        tuned: the same deltas on the new base, with fresh values.
        how: scale and head; a head of another width can only be fresh.
        generator: of the second random head that `arithmetic` subtracts; seed 0 by default.

    Raises:
        DeltatuneError: the deltas have other names or shapes, the scale is not defined for their kind, or the head does not fit.
    """
    own = tuned.weights()
    head = set(tuned.head_names)
    body = {name: tensor for name, tensor in saved.weights.items() if name not in saved.head}
    body = with_new_rows(body, own, f"{tuned.backbone.sites.embedding}.weight")
    check_match({name: own[name] for name in own if name not in head}, body, "the old delta and the one on the new base")
    values = scaled(saved.configs, body, how.scale) | {name: own[name] for name in head}
    if head and how.head_init != "fresh":
        kept = {name: saved.weights[name] for name in saved.head}
        try:
            check_match({name: own[name] for name in tuned.head_names}, kept, "the old head and the new one")
        except DeltatuneError as error:
            raise DeltatuneError(f"{error}, or start with --head_init fresh") from error
        values |= kept if how.head_init == "copy" else _summed(kept, own, tuned, generator)
    tuned.load({name: values[name] for name in own})


def with_new_rows(body: Weights, own: Weights, embedding: str) -> dict[str, Tensor]:
    """A delta for a vocabulary that was extended: the difference of the new words' rows is zero.

    Args:
        body: differences to the old base.
        own: tensors of the new base's size.
        embedding: name of the word table.
    """
    result = dict(body)
    table, wanted = body.get(embedding), own.get(embedding)
    if table is not None and wanted is not None and len(wanted) > len(table) and wanted.shape[1:] == table.shape[1:]:
        result[embedding] = torch.cat([table, table.new_zeros(len(wanted) - len(table), *table.shape[1:])])
    return result


def _summed(kept: Weights, own: Weights, tuned: Tuned, generator: torch.Generator | None) -> dict[str, Tensor]:
    """The sum new + tuned - old, where old is one more random head."""
    generator = generator or torch.Generator().manual_seed(0)
    std = getattr(tuned.backbone.model.config, "initializer_range", 0.02)
    result = {}
    for name, tensor in kept.items():
        drawn = torch.zeros_like(tensor)
        if tensor.dim() > 1:
            fill_normal(drawn, std, generator)
        result[name] = own[name].cpu() + tensor - drawn
    return result


def scaled(configs: Collection[DeltaConfig], weights: Weights, scale: float) -> dict[str, Tensor]:
    """The delta whose effect on the model is `scale` times that of `weights`, to first order for an adapter's input.

    Differences are multiplied; of LoRA the second factor, of an adapter the map back to the model's width, so that the added
    term is multiplied and 0 removes the delta.

    Raises:
        DeltatuneError: a prefix or soft prompt, whose effect has no such factor.
    """
    if scale == 1.0:
        return dict(weights)
    for config in configs:
        if not isinstance(config, (Full, Modules, BitFit, Head, LoRA, Houlsby)):
            name = type(config).__name__
            raise DeltatuneError(f"--scale {scale:g}: the effect of a {name} has no factor; leave --scale at 1")
    # What leads into the bottleneck stays: its output is multiplied on the way back.
    kept = (".lora_A.", ".houlsby_down.")
    return {name: tensor if any(part in name for part in kept) else tensor * scale for name, tensor in weights.items()}
