"""Deltas that give parameters of the base other values: `Full` fine-tuning, `Modules` chosen by pattern, and the task head.

The base's own parameters stay as they are; the forward pass runs with the delta's tensors in their places
(`torch.func.functional_call`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from deltatune.core.backbone import Backbone
from deltatune.core.delta.base import Delta, DeltaConfig, fill_normal, unordered
from deltatune.core.errors import DeltatuneError


@dataclass(frozen=True)
class Full(DeltaConfig):
    """Full fine-tuning: every floating parameter of the base except the head, which is kept apart."""

    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """See `DeltaConfig.build`."""
        return ValuesDelta(self, backbone, [name for name, _ in _trainable(backbone)])


@dataclass(frozen=True)
class Modules(DeltaConfig):
    """The parameters whose names match.

    Args:
        patterns: shell patterns on parameter names, such as '*.layer_norm.weight', in any order; a name may match several.
    """

    patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that there is something to match."""
        if not self.patterns:
            raise DeltatuneError("modules.patterns is empty; give at least one shell pattern such as '*LayerNorm*'")
        object.__setattr__(self, "patterns", unordered("modules.patterns", self.patterns))

    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """See `DeltaConfig.build`."""
        names = [name for name, _ in _trainable(backbone)]
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise DeltatuneError(
                    f"modules.patterns: '{pattern}' matches no parameter of the base; names look like {names[-1]}"
                )
        return ValuesDelta(self, backbone, [name for name in names if any(fnmatchcase(name, p) for p in self.patterns)])


@dataclass(frozen=True)
class Head(DeltaConfig):
    """The task head: attached with every delta where the form has one, and saved with it.

    Args:
        init_std: standard deviation of the normal start of its matrices, None for the model's own; biases start at 0. A head
            that the checkpoint already held keeps its values.
    """

    init_std: float | None = None

    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """See `DeltaConfig.build`."""
        names = [name for name, _ in backbone.model.named_parameters() if backbone.sites.is_head(name)]
        if not names:
            raise DeltatuneError(f"head: the model has no task head in form '{backbone.form}'; choose another delta or --form")
        head = ValuesDelta(self, backbone, names)
        head.relative = False
        std = self.init_std if self.init_std is not None else getattr(backbone.model.config, "initializer_range", 0.02)
        for name, internal in head.names().items():
            tensor = head.get_parameter(internal)
            # A vector that is no bias scales a norm: the model's own start, ones, is the only sensible one.
            if name in backbone.fresh and (tensor.dim() > 1 or name.endswith("bias")):
                fill_normal(tensor, std if tensor.dim() > 1 else 0.0, generator)
        return head


class Value(nn.Module):
    """The parameters of one module, under their own names."""


class ValuesDelta(Delta):
    """Copies of chosen parameters that take their places."""

    identity_at_start = True
    relative = True

    def __init__(self, config: DeltaConfig, backbone: Backbone, names: list[str]) -> None:
        """Copy the parameters `names` (aliases of one tensor are copied once)."""
        super().__init__(config)
        for name in names:
            path, _, leaf = name.rpartition(".")
            key = path.replace(".", "/")
            if key not in self.sites:
                self.place(path, Value())
            value = nn.Parameter(backbone.model.get_parameter(name).detach().clone())
            self.sites[key].register_parameter(leaf, value)

    def replaced(self) -> dict[str, Tensor]:
        """Every owned tensor, under the base's name."""
        return {f"{path}.{name}": value for path, part in self.parts() for name, value in part.named_parameters()}

    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        """The values themselves."""
        return {name: value.detach() for name, value in self.replaced().items()}


def _trainable(backbone: Backbone) -> list[tuple[str, Tensor]]:
    return [(n, p) for n, p in backbone.model.named_parameters() if p.is_floating_point() and not backbone.sites.is_head(n)]
