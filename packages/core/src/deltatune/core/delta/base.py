"""What every delta has in common.

A delta is a module of its own that stands beside the model. It owns tensors, under public names that start with the path of
the module of the base model that they serve; it reaches the model through hooks, or through changed parameters, or by
changing the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.backbone import Backbone
from deltatune.core.errors import DeltatuneError

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class DeltaConfig(ABC):
    """Base class of the deltas' settings; the class name is the name on the command line."""

    @abstractmethod
    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """A fresh delta for `backbone`, initial values drawn from `generator` (on the CPU, whatever the device).

        Raises:
            DeltatuneError: a setting does not fit this backbone.
        """

    @property
    def reserved_positions(self) -> int:
        """How many of the model's absolute positions the delta takes away from the text."""
        return 0

    def describe(self) -> dict[str, Any]:
        """Kind and settings as plain values, for checkpoints and records."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {"kind": type(self).__name__} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def unordered(setting: str, names: tuple[str, ...], known: tuple[str, ...] = ()) -> tuple[str, ...]:
    """`names` in the order of `known`, the others behind by alphabet, so that settings that mean the same are equal.

    Raises:
        DeltatuneError: one stands there twice.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DeltatuneError(f"{setting} names {twice[0]} {names.count(twice[0])} times; name each once")
    return tuple(sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name)))


class Delta(nn.Module):
    """A delta in memory: tensors under public names, and how they act on a model."""

    #: Whether a fresh delta leaves the model's output unchanged.
    identity_at_start = False
    #: Deltas of a lower stage hook first; on one module, what acts inside it (0) comes before what acts on its output (1).
    stage = 0
    #: Whether `weights` are differences to parameters of the base (True) or values of the delta's own (False).
    relative = False

    def __init__(self, config: DeltaConfig) -> None:
        """Keep the settings; subclasses add their tensors with `place`."""
        super().__init__()
        self.config = config
        self.sites = nn.ModuleDict()

    def place(self, path: str, part: nn.Module) -> None:
        """Own `part`, which serves the base module `path`."""
        self.sites[path.replace(".", "/")] = part

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """(path in the base model, the part that serves it), in the order of creation."""
        for key, part in self.sites.items():
            yield key.replace("/", "."), part

    def names(self) -> dict[str, str]:
        """Public name -> name inside this module, in the order of creation."""
        found = {}
        for path, part in self.parts():
            for name, _ in part.named_parameters():
                found[f"{path}.{name}" if path else name] = f"sites.{path.replace('.', '/')}.{name}"
        return found

    def hook(self, model: nn.Module) -> Iterable[torch.utils.hooks.RemovableHandle]:
        """Register this delta's hooks on `model`."""
        return ()

    def prepare(self, batch: Batch) -> Batch:
        """The batch as this delta wants the model to see it."""
        return batch

    def replaced(self) -> dict[str, Tensor]:
        """Parameters of the base that take other values in the forward pass: name -> tensor."""
        return {}

    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        """New values of base parameters that give the same outputs without the delta.

        Raises:
            DeltatuneError: this kind cannot be expressed in the base's own weights.
        """
        raise DeltatuneError(
            f"merge: {type(self.config).__name__} is not part of the base's own weights ({self.why_not_merged}); keep the run"
        )

    why_not_merged = "it adds modules or positions"


class Linear(nn.Module):
    """y = x W^T (+ b), W (out, in); made without touching any random stream."""

    def __init__(self, d_in: int, d_out: int, bias: bool, device: torch.device) -> None:
        """Uninitialised; call `normal` or `uniform`."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d_out, d_in, device=device))
        self.bias = nn.Parameter(torch.zeros(d_out, device=device)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return nn.functional.linear(x, self.weight, self.bias)


def fill_normal(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill with N(0, std^2) drawn on the CPU; std is a standard deviation."""
    if tensor.device.type != "meta":
        with torch.no_grad():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)


def fill_uniform(tensor: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill with U(-bound, bound) drawn on the CPU."""
    if tensor.device.type != "meta":
        with torch.no_grad():
            tensor.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1) * bound)


def module_at(model: nn.Module, path: str, kind: str) -> nn.Module:
    """The module of `model` at `path`.

    Raises:
        DeltatuneError: there is none, so the sites record does not fit the model.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise DeltatuneError(f"{kind}: {type(model).__name__} has no module {path}; correct the sites record") from error


def width_of(linear: nn.Module) -> tuple[int, int, torch.device]:
    """(in, out, device) of a linear map."""
    weight = linear.weight
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not isinstance(linear, nn.Linear):
        raise DeltatuneError(f"a {type(linear).__name__} is not a torch.nn.Linear; name another target")
    return weight.shape[1], weight.shape[0], weight.device


def add_to_output(part: nn.Module, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: output + part(input)."""
    result: Tensor = output + part(args[0])
    return result


def change_output(part: nn.Module, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Forward hook: part(output), on the first element where the module returns a tuple."""
    if isinstance(output, tuple):
        return (part(output[0]), *output[1:])
    return part(output)


def hook_all(delta: Delta, model: nn.Module, function: Any) -> list[torch.utils.hooks.RemovableHandle]:
    """Register `function(part, module, args, output)` at the path of every part; a partial, so that copies stay independent."""
    return [model.get_submodule(path).register_forward_hook(partial(function, part)) for path, part in delta.parts()]
