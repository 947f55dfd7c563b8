"""Adapters: bottlenecks with a skip connection after sub-layers (Houlsby et al. 2019), y = h + W_up f(W_down h + b) + c.

The five papers place it in three ways. `after_projection`: on the output of the sub-layer's last linear map, before dropout,
residual sum and norm (the T5 papers; recyclable's `after_dense`). `after_dropout`: the same after the dropout (combos).
`after_norm`: on the residual stream after sum and norm (recyclable, modeconn; post-norm architectures only).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from deltatune.core.backbone import Backbone
from deltatune.core.delta.base import (
    Delta,
    DeltaConfig,
    Linear,
    change_output,
    fill_normal,
    hook_all,
    module_at,
    unordered,
    width_of,
)
from deltatune.core.errors import DeltatuneError
from deltatune.core.sites import Kind, SubLayer

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_new": lambda x: nn.functional.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True)
class Houlsby(DeltaConfig):
    """Bottleneck adapters after sub-layers.

    Args:
        width: inner width (published: `adapter_size`, `bottleneck_dim`); None takes the model's width divided by `reduction`.
        reduction: see `width` (published: `reduction_factor`).
        activation: f; gelu_new is the tanh approximation, silu is also called swish.
        bias: whether both maps have a bias.
        sites: after which sub-layers: self (self-attention), cross (cross-attention), ffn (feed-forward); ffn alone is the
            Pfeiffer variant.
        placement: after_projection, after_dropout or after_norm (see the module's documentation).
        init_std: standard deviation of the normal start of both matrices; biases start at 0. The papers use 0.02 and 0.01, so
            a fresh adapter is near the identity and not exactly it; 0 starts the upper matrix at exactly 0 and draws the
            lower one with 0.02.
    """

    width: int | None = None
    reduction: int = 16
    activation: Literal["silu", "relu", "gelu", "gelu_new"] = "silu"
    bias: bool = True
    sites: tuple[Kind, ...] = ("self", "cross", "ffn")
    placement: Literal["after_projection", "after_dropout", "after_norm"] = "after_projection"
    init_std: float = 0.02

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.width is not None and self.width < 1:
            raise DeltatuneError(f"houlsby.width must be at least 1, got {self.width}")
        if self.reduction < 1:
            raise DeltatuneError(f"houlsby.reduction must be at least 1, got {self.reduction}")
        if self.init_std < 0:
            raise DeltatuneError(f"houlsby.init_std must not be negative, got {self.init_std}")
        if not self.sites:
            raise DeltatuneError("houlsby.sites is empty; name at least one of self, cross, ffn")
        object.__setattr__(self, "sites", unordered("houlsby.sites", self.sites, get_args(Kind)))

    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """See `DeltaConfig.build`."""
        return HoulsbyDelta(self, backbone, generator)


class Bottleneck(nn.Module):
    """h -> h + W_up f(W_down h + b) + c."""

    def __init__(self, config: Houlsby, d_model: int, device: torch.device, generator: torch.Generator) -> None:
        """Draw both matrices."""
        super().__init__()
        width = config.width or max(1, d_model // config.reduction)
        self.houlsby_down = Linear(d_model, width, config.bias, device)
        self.houlsby_up = Linear(width, d_model, config.bias, device)
        self.activation = config.activation
        fill_normal(self.houlsby_down.weight, config.init_std or 0.02, generator)
        fill_normal(self.houlsby_up.weight, config.init_std, generator)

    def forward(self, h: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        result: Tensor = h + self.houlsby_up(_ACTIVATIONS[self.activation](self.houlsby_down(h)))
        return result


class HoulsbyDelta(Delta):
    """A bottleneck at every chosen sub-layer."""

    stage = 1
    why_not_merged = "its bottleneck is not linear"

    def __init__(self, config: Houlsby, backbone: Backbone, generator: torch.Generator) -> None:
        """Create bottlenecks in the order of the sub-layers."""
        super().__init__(config)
        self.identity_at_start = config.init_std == 0
        for sublayer in backbone.sites.sublayers(backbone.model):
            if sublayer.kind in config.sites:
                linear = module_at(backbone.model, sublayer.projection, "houlsby")
                _, d_model, device = width_of(linear)
                site = _site(sublayer, config)
                module_at(backbone.model, site, "houlsby.placement")
                self.place(site, Bottleneck(config, d_model, device, generator))
        if not self.sites:
            kinds, model = ", ".join(config.sites), type(backbone.model).__name__
            raise DeltatuneError(f"houlsby.sites: {model} has no sub-layer of kind {kinds}; name self, cross or ffn")

    def hook(self, model: nn.Module) -> Iterable[torch.utils.hooks.RemovableHandle]:
        """Change each site's output."""
        return hook_all(self, model, change_output)


def _site(sublayer: SubLayer, config: Houlsby) -> str:
    site = {
        "after_projection": sublayer.projection,
        "after_dropout": sublayer.dropout,
        "after_norm": sublayer.residual,
    }[config.placement]
    if site is None:
        raise DeltatuneError(
            f"houlsby.placement '{config.placement}' does not exist at {sublayer.projection}; use after_projection"
        )
    return site
