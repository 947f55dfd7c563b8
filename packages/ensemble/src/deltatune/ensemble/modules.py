"""The modules whose importance is measured: blocks and sub-layers of an architecture, from its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deltatune.core.backbone import Backbone
from deltatune.core.batches import Batch
from deltatune.core.delta import Tuned

By = Literal["whole", "block", "sublayer"]
WHOLE, ELSEWHERE = "all", "other"
_EPS = 1e-6


def places(backbone: Backbone, by: By) -> dict[str, str]:
    """Name of a module as the published files have it -> its path, such as `encoder_block_0` -> `encoder.block.0`.

    Sub-layers are numbered in the order in which they run: `decoder_block_0_layer_1` is T5's cross-attention.
    """
    found = {}
    for stack in backbone.sites.stacks:
        side = stack.path.rpartition(".")[2]
        for number, block in enumerate(backbone.sites.blocks(backbone.model, stack)):
            if by == "block":
                found[f"{side}_block_{number}"] = block
            elif by == "sublayer":
                for order, sublayer in enumerate(stack.sublayers):
                    found[f"{side}_block_{number}_layer_{order}"] = f"{block}.{sublayer.projection}"
    return found


def grouping(backbone: Backbone, by: By) -> Callable[[str], str]:
    """The function from the name of a delta's tensor to its module; `other` for what is in none, such as an embedding."""
    if by == "whole":
        return lambda name: WHOLE
    if by == "block":
        blocks = places(backbone, "block")
        return lambda name: next((key for key, path in blocks.items() if name.startswith(f"{path}.")), ELSEWHERE)
    owners: dict[str, str] = {}
    for stack in backbone.sites.stacks:
        side = stack.path.rpartition(".")[2]
        for number, block in enumerate(backbone.sites.blocks(backbone.model, stack)):
            for order, sublayer in enumerate(stack.sublayers):
                inside = [sublayer.projection, sublayer.dropout, sublayer.residual, sublayer.query, sublayer.key, sublayer.value]
                inside += [sublayer.attention, *sublayer.expand]
                owners |= {f"{block}.{path}": f"{side}_block_{number}_layer_{order}" for path in inside if path}
    # The longest path that a name starts with: a post-norm sub-layer's residual module may hold others.
    ordered = sorted(owners, key=len, reverse=True)
    return lambda name: next((owners[path] for path in ordered if name.startswith(f"{path}.")), ELSEWHERE)


@contextmanager
def block_states(tuned: Tuned) -> Iterator[dict[str, Tensor]]:
    """What leaves each block, (B, T, d), of every forward pass inside; of the last block before the final norm."""
    states: dict[str, Tensor] = {}
    found = places(tuned.backbone, "block")
    handles = [
        tuned.model.get_submodule(path).register_forward_hook(partial(_keep, states, name)) for name, path in found.items()
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _keep(states: dict[str, Tensor], name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    states[name] = (output[0] if isinstance(output, tuple) else output).detach()


def state_cosines(left: dict[str, Tensor], right: dict[str, Tensor], batch: Batch) -> dict[str, float]:
    """For each block the sum over examples of the cosine of both sides' states, padding left out and all positions as one vector.

    Args:
        left: block -> (B, T, d), of the delta tuned on the target.
        right: of the source.
        batch: with `attention_mask` for the first stack and, of an encoder-decoder, `labels` for the second.
    """
    found = {}
    for name, state in left.items():
        real = batch["labels"] != -100 if name.startswith("decoder_") else batch["attention_mask"] == 1
        masked = [torch.where(real.unsqueeze(-1), end, 0.0).double().flatten(1) for end in (state, right[name])]
        lengths = (masked[0].norm(dim=1) * masked[1].norm(dim=1)).clamp(min=_EPS)
        found[name] = float(((masked[0] * masked[1]).sum(1) / lengths).sum())
    return found
