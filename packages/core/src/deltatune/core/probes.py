"""What a tuned model computes on the way: the states between its blocks, and the attention of its heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.batches import Batch
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError


def with_states(tuned: Tuned, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the states (B, T, d) of the first stack: what enters its first block, then what leaves each block.

    Differentiable, deltas active, in the mode (training or evaluation) that `tuned` is in.
    """
    stack = tuned.backbone.sites.stacks[0]
    blocks = [tuned.model.get_submodule(path) for path in tuned.backbone.sites.blocks(tuned.model, stack)]
    states: list[Tensor] = []
    handles = [blocks[0].register_forward_pre_hook(partial(_entering, states), with_kwargs=True)]
    handles += [block.register_forward_hook(partial(_leaving, states)) for block in blocks]
    try:
        return tuned(batch), states
    finally:
        for handle in handles:
            handle.remove()


def _entering(states: list[Tensor], module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    states.append(args[0] if args else named["hidden_states"])


def _leaving(states: list[Tensor], module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    states.append(output[0] if isinstance(output, tuple) else output)


def attention(tuned: Tuned, batch: Batch) -> list[Tensor]:
    """The attention probabilities (B, heads, T, T) of every layer of the first stack, over the positions of the text.

    Evaluated without gradient; keys that a prefix adds are left out.

    Raises:
        DeltatuneError: the model does not report its attention, or a delta adds positions to the text.
    """
    with torch.no_grad(), _eager(tuned):
        output = tuned.call(batch, output_attentions=True)
    maps = getattr(output, "encoder_attentions", None) or getattr(output, "attentions", None)
    name, length = tuned.backbone.name, batch["input_ids"].shape[1]
    if not maps:
        raise DeltatuneError(f"model {name} does not report its attention; this measure needs another model")
    if any(layer.shape[2] != length for layer in maps):
        raise DeltatuneError("a delta adds positions to the text, so attention maps have no common size; compare other deltas")
    return [layer[..., -length:] for layer in maps]


@contextmanager
def _eager(tuned: Tuned) -> Iterator[None]:
    """Evaluation mode, and the implementation of attention that keeps its probabilities."""
    model, was_training = tuned.backbone.model, tuned.training
    before = model.config._attn_implementation
    tuned.eval()
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        tuned.train(was_training)
