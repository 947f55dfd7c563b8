"""Prefix tuning: trained keys and values in front of self-attention (Li and Liang 2021).

M = tanh(E W1^T) W2^T, E (P, d), W1 (r, d), W2 (2 L d, r), one set for each stack (modeconn, ensemble, subspace). M (P, 2 L d)
is read as (L, 2, heads, P, d / heads) by a plain reshape, as the papers ran it (`layout="reshape"`: layer l of a model with
as many layers as there are rows uses a slice of the rows), or split along the feature axis (`layout="split"`, PEFT's).

The prefix reaches an attention module as a past: a small cache in front of the model's own. So the relative position bias of
T5 counts it as the positions before the text, masks leave it visible, and cached decoding sees it once, all by the model's
own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deltatune.core.backbone import Backbone
from deltatune.core.delta.base import Batch, Delta, DeltaConfig, Linear, fill_normal, fill_uniform, module_at, width_of
from deltatune.core.errors import DeltatuneError
from deltatune.core.sites import Stack, head_width


@dataclass(frozen=True)
class Prefix(DeltaConfig):
    """Trained keys and values before the text, in the self-attention of every block.

    Args:
        length: number of prefix positions P (published: `prefix_num`).
        width: inner width of the reparametrisation (published: `prefix_r`); None trains keys and values directly.
        layout: how a row of M becomes keys and values (see the module's documentation).
        positions: where the text's absolute positions begin: at 0 as without a prefix (text), or behind it at P, as PEFT
            counts them (after). Relative positions, as T5 has them, always count the prefix.
        init_std: standard deviation of the normal start of E; the matrices start uniform in 1/sqrt(fan-in).
    """

    length: int = 120
    width: int | None = 24
    layout: Literal["reshape", "split"] = "reshape"
    positions: Literal["text", "after"] = "text"
    init_std: float = 0.02

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.length < 1:
            raise DeltatuneError(f"prefix.length must be at least 1, got {self.length}")
        if self.width is not None and self.width < 1:
            raise DeltatuneError(f"prefix.width must be at least 1 or null, got {self.width}")

    @property
    def reserved_positions(self) -> int:
        """See `DeltaConfig.reserved_positions`."""
        return self.length if self.positions == "after" else 0

    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """See `DeltaConfig.build`."""
        return PrefixDelta(self, backbone, generator)


class StackPrefix(nn.Module):
    """The prefix of one stack; holds the keys and values of the forward pass under way."""

    def __init__(
        self, config: Prefix, shape: tuple[int, int, int, int], device: torch.device, generator: torch.Generator
    ) -> None:
        """Create the tensors for `shape` = (layers, heads, width of a head, d_model)."""
        super().__init__()
        layers, heads, d_head, d_model = shape
        self.shape, self.layout = (layers, heads, d_head), config.layout
        features = 2 * layers * heads * d_head
        self.prefix_embedding = nn.Parameter(
            torch.zeros(config.length, features if config.width is None else d_model, device=device)
        )
        fill_normal(self.prefix_embedding, config.init_std, generator)
        if config.width is not None:
            self.prefix_down = Linear(d_model, config.width, False, device)
            self.prefix_up = Linear(config.width, features, False, device)
            fill_uniform(self.prefix_down.weight, 1 / sqrt(d_model), generator)
            fill_uniform(self.prefix_up.weight, 1 / sqrt(config.width), generator)
        self.current: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the keys and values under way: as part of a graph they cannot be copied, and a copy computes its own."""
        return {**self.__dict__, "current": None}

    def keys_values(self) -> Tensor:
        """(layers, 2, heads, P, width of a head): keys at index 0, values at 1."""
        flat = self.prefix_embedding
        if hasattr(self, "prefix_up"):
            flat = self.prefix_up(torch.tanh(self.prefix_down(flat)))
        layers, heads, d_head = self.shape
        if self.layout == "reshape":
            return flat.reshape(layers, 2, heads, -1, d_head)
        return flat.reshape(-1, layers, 2, heads, d_head).permute(1, 2, 3, 0, 4)


class Past:
    """What an attention module takes for its cache: the prefix, then the real cache if there is one."""

    def __init__(self, keys_values: Tensor, cache: Any) -> None:
        """`keys_values` (2, heads, P, width of a head); `cache` of transformers, or None."""
        self.prefix, self.cache = keys_values, cache

    def get_seq_length(self, layer: int = 0) -> int:
        """Positions before the current tokens."""
        return int(self.prefix.shape[2]) + (int(self.cache.get_seq_length(layer)) if self.cache is not None else 0)

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, T, width of a head) to those of prefix, past and current tokens."""
        if self.cache is not None:
            keys, values = self.cache.update(keys, values, layer, *args, **kwargs)
        both = self.prefix.to(keys.dtype).unsqueeze(1).expand(-1, keys.shape[0], -1, -1, -1)
        return torch.cat([both[0], keys], dim=2), torch.cat([both[1], values], dim=2)


class PrefixDelta(Delta):
    """One `StackPrefix` for every stack."""

    stage = 1
    why_not_merged = "its positions are not weights"

    def __init__(self, config: Prefix, backbone: Backbone, generator: torch.Generator) -> None:
        """Create the prefixes, encoder before decoder."""
        super().__init__(config)
        model = backbone.model
        if config.positions == "after" and len(backbone.sites.stacks) > 1:
            raise DeltatuneError("prefix.positions 'after' is for models with one stack; use text")
        self.offset = partial(backbone.position_ids, offset=config.length) if config.positions == "after" else None
        self.attentions: dict[str, list[str]] = {}
        for stack in backbone.sites.stacks:
            paths = _attention_paths(backbone, stack)
            first = next(s for s in backbone.sites.sublayers(model) if s.attention == paths[0])
            if first.key is None:
                raise DeltatuneError(f"prefix: the sites record names no key map at {paths[0]}")
            d_model, kv_width, device = width_of(module_at(model, first.key, "prefix"))
            d_head = head_width(model.config)
            shape = (len(paths), kv_width // d_head, d_head, d_model)
            self.attentions[stack.path] = paths
            self.place(stack.path, StackPrefix(config, shape, device, generator))

    def prepare(self, batch: Batch) -> Batch:
        """Count the text's positions from behind the prefix, where the settings say so."""
        return batch if self.offset is None else {**batch, "position_ids": self.offset(batch["input_ids"])}

    def hook(self, model: nn.Module) -> Iterable[torch.utils.hooks.RemovableHandle]:
        """Compute keys and values once a forward pass of the stack; hand a layer's share to each attention module."""
        for path, part in self.parts():
            yield model.get_submodule(path).register_forward_pre_hook(partial(_begin, part))
            for layer, attention in enumerate(self.attentions[path]):
                hook = partial(_extend, part, layer)
                yield model.get_submodule(attention).register_forward_pre_hook(hook, with_kwargs=True)


def _attention_paths(backbone: Backbone, stack: Stack) -> list[str]:
    template = next((s for s in stack.sublayers if s.kind == "self"), None)
    if template is None or template.attention is None:
        raise DeltatuneError(f"prefix: the sites record names no self-attention in {stack.path}")
    paths = [f"{block}.{template.attention}" for block in backbone.sites.blocks(backbone.model, stack)]
    for path in paths:
        module_at(backbone.model, path, "prefix")
    return paths


def _begin(part: Any, module: nn.Module, args: tuple[Any, ...]) -> None:
    part.current = part.keys_values()


def _extend(part: Any, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pre-hook of an attention module: put the prefix in front of its cache and widen its mask."""
    call = inspect.signature(module.forward).bind(*args, **kwargs)
    extra = call.arguments.pop("kwargs", {})
    parameters = inspect.signature(module.forward).parameters
    # The cache's name since transformers 5.24, and before; an encoder's attention passes either on among its other keywords.
    cached = "cache" if "cache" in parameters else "past_key_values"
    cache = call.arguments.get(cached, extra.get(cached))
    cache = getattr(cache, "self_attention_cache", cache)
    hidden = call.arguments["hidden_states"]
    if part.current is None:
        raise DeltatuneError("prefix: the stack did not run before its attention; call the whole model")
    past = Past(part.current[layer], cache)
    name = next(name for name in ("mask", "attention_mask") if name in parameters)
    # The cache of an earlier layer already holds the current tokens: only this layer's own length counts what came before.
    seen = past.get_seq_length(layer)
    mask = _widen(call.arguments.get(name), part.current.shape[3], hidden, seen, bool(getattr(module, "is_causal", False)))
    return (), {**call.arguments, **extra, name: mask, cached: past}


def _widen(mask: Tensor | None, length: int, hidden: Tensor, seen: int, causal: bool) -> Tensor | None:
    """A mask (B, 1, T, S) with `length` visible columns in front; boolean masks say what is seen, others are added to scores.

    `seen` counts the positions before the current tokens, prefix included.
    """
    if mask is None:
        tokens = hidden.shape[1]
        if not causal or tokens == 1:
            return None
        # Without a mask the attention function would draw its triangle from the first column, through the prefix.
        square = torch.ones(tokens, seen + tokens, dtype=torch.bool, device=hidden.device).tril(seen)
        return square[None, None]
    if mask.dim() != 4:
        raise DeltatuneError(
            "prefix: this attention implementation takes no four-dimensional mask; load the model with sdpa or eager"
        )
    return nn.functional.pad(mask, (length, 0), value=True if mask.dtype == torch.bool else 0.0)
