"""BitFit: train bias vectors only (Ben Zaken et al. 2022).

A zero vector is added to the output of every module that has a bias, which equals training the bias itself and leaves the
base untouched. A model without any bias (T5) gets one vector for every linear map of its blocks; the model still starts
unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.backbone import Backbone
from deltatune.core.delta.base import Delta, DeltaConfig, hook_all
from deltatune.core.errors import DeltatuneError


@dataclass(frozen=True)
class BitFit(DeltaConfig):
    """Bias vectors: of linear maps, of layer norms and of the vocabulary scores (combos)."""

    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """See `DeltaConfig.build`."""
        return BitFitDelta(self, backbone)


class Shift(nn.Module):
    """A vector to add."""

    def __init__(self, width: int, device: torch.device) -> None:
        """Zeros (width,)."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width, device=device))


class BitFitDelta(Delta):
    """One vector a module; `weights` are differences to the base's biases (or to no bias)."""

    identity_at_start = True
    relative = True

    def __init__(self, config: BitFit, backbone: Backbone) -> None:
        """Create the vectors in the order of the modules."""
        super().__init__(config)
        model, sites = backbone.model, backbone.sites
        found = [item for item in _biased(model) if not sites.is_head(item[0])] or list(_block_linears(backbone))
        for path, width, device in found:
            self.place(path, Shift(width, device))

    def hook(self, model: nn.Module) -> Iterable[torch.utils.hooks.RemovableHandle]:
        """Add each vector to its module's output."""
        return hook_all(self, model, _shift)

    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        """Base bias + vector; refused where the base has no bias to hold it."""
        result = {}
        for path, part in self.parts():
            bias = model.get_submodule(path).bias
            if not isinstance(bias, Tensor):
                raise DeltatuneError(f"merge: {path} has no bias in the base that could hold the BitFit vector; keep the run")
            result[f"{path}.bias"] = bias + part.get_parameter("bias")
        return result


def _shift(part: Shift, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + part.bias


def _biased(model: nn.Module) -> Iterator[tuple[str, int, torch.device]]:
    """Modules without children that own a bias, each bias once."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter) and not list(module.children()) and id(bias) not in seen:
            seen.add(id(bias))
            yield path, bias.numel(), bias.device


def _block_linears(backbone: Backbone) -> Iterator[tuple[str, int, torch.device]]:
    for stack in backbone.sites.stacks:
        for block in backbone.sites.blocks(backbone.model, stack):
            for path, module in backbone.model.get_submodule(block).named_modules():
                if isinstance(module, nn.Linear):
                    yield f"{block}.{path}", module.out_features, module.weight.device
