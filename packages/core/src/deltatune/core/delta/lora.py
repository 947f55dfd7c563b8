"""LoRA: a low-rank update of linear maps (Hu et al. 2022), y = x W^T + (alpha / r) x A^T B^T.

A (r, in) and B (out, r) as PEFT stores them. The T5 papers write A (in, r) and, because their initialiser then reads r as the
fan-in, draw A from U(-1/sqrt(r), 1/sqrt(r)): `init="fan_rank"` (ensemble, subspace, modeconn). The usual bound is 1/sqrt(in).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from deltatune.core.backbone import Backbone
from deltatune.core.delta.base import (
    Delta,
    DeltaConfig,
    Linear,
    add_to_output,
    fill_uniform,
    hook_all,
    module_at,
    unordered,
    width_of,
)
from deltatune.core.errors import DeltatuneError

Role = Literal["query", "key", "value", "output", "expand", "contract"]


@dataclass(frozen=True)
class LoRA(DeltaConfig):
    """Low-rank updates of linear maps.

    Args:
        rank: inner width r (published: `lora_size`, `lora_r`).
        alpha: the update is scaled by alpha / rank.
        init: bound of the uniform start of A: 1/sqrt(in) (standard) or 1/sqrt(rank) (fan_rank, as the T5 papers ran it). B
            starts at 0.
        targets: which maps of every attention (query, key, value, output) and feed-forward (expand, contract),
            each once; their order does not matter.
        dropout: probability of dropping entries of the input of A in training.
    """

    rank: int = 8
    alpha: float = 16.0
    init: Literal["standard", "fan_rank"] = "standard"
    targets: tuple[Role, ...] = ("query", "value")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.rank < 1:
            raise DeltatuneError(f"lora.rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise DeltatuneError(f"lora.dropout must be in [0, 1), got {self.dropout}")
        if not self.targets:
            raise DeltatuneError("lora.targets is empty; name at least one of query, key, value, output, expand, contract")
        object.__setattr__(self, "targets", unordered("lora.targets", self.targets, get_args(Role)))

    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """See `DeltaConfig.build`."""
        return LoRADelta(self, backbone, generator)


class Factors(nn.Module):
    """One pair of factors; maps the input of a linear map to what is added to its output."""

    def __init__(self, config: LoRA, linear: nn.Module, generator: torch.Generator) -> None:
        """Draw A, leave B at zero."""
        super().__init__()
        d_in, d_out, device = width_of(linear)
        self.lora_A = Linear(d_in, config.rank, False, device)
        self.lora_B = Linear(config.rank, d_out, False, device)
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout
        fill_uniform(self.lora_A.weight, 1 / sqrt(d_in if config.init == "standard" else config.rank), generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        x = nn.functional.dropout(x, self.dropout, self.training)
        result: Tensor = self.lora_B(self.lora_A(x)) * self.scale
        return result

    def update(self) -> Tensor:
        """(alpha / r) B A, shape (out, in): what is added to the map's weight."""
        return (self.lora_B.weight @ self.lora_A.weight) * self.scale


class LoRADelta(Delta):
    """Factors beside every target map."""

    identity_at_start = True

    def __init__(self, config: LoRA, backbone: Backbone, generator: torch.Generator) -> None:
        """Create factors in the order of the sub-layers, targets in that of `Role`."""
        super().__init__(config)
        for sublayer in backbone.sites.sublayers(backbone.model):
            for role in config.targets:
                for path in sublayer.linears(role):
                    linear = module_at(backbone.model, path, "lora.targets")
                    if config.rank > min(width_of(linear)[:2]):
                        raise DeltatuneError(
                            f"lora.rank must be between 1 and {min(width_of(linear)[:2])} at {path}, got {config.rank}"
                        )
                    self.place(path, Factors(config, linear, generator))
        if not self.sites:
            targets = ", ".join(config.targets)
            raise DeltatuneError(f"lora.targets: the sites record names no map for {targets}; correct the record or the targets")

    def hook(self, model: nn.Module) -> Iterable[torch.utils.hooks.RemovableHandle]:
        """Add each update to its map's output."""
        return hook_all(self, model, add_to_output)

    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        """W + (alpha / r) B A for every target."""
        return {f"{path}.weight": model.get_parameter(f"{path}.weight") + part.update() for path, part in self.parts()}  # type: ignore[operator]
