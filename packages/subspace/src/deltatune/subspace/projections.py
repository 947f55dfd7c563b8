"""The maps between a delta and the subspace.

A delta, written as one vector, is x (D,): its tuned values minus the initial values that it started from. With k dimensions

    point   P = W2 f(W1 x + b1) + b2,   W1 (k, D), W2 (k, k)     (encoder)
    decoded x' = V P,                   V (D, k)                 (decoder, no bias)

Nothing here knows a model; several deltas that meet in one space have a `Projection` each, and need not be of one size. What
only decodes is in `deltatune.subspace.decoders`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional

from deltatune.core.errors import DeltatuneError

Activation = Literal["tanh", "gelu", "leaky_relu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "leaky_relu": functional.leaky_relu,
}
STD = 0.02  # of every first value, biases included, as published


class Decoder(Protocol):
    """A map from the subspace to a delta, as `Projection` and `deltatune.subspace.decoders` have it."""

    @property
    def k(self) -> int:
        """Dimensions of the subspace."""

    @property
    def size(self) -> int:
        """D, the length of the delta."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    def decode(self, points: Tensor) -> Tensor:
        """Deltas (..., D) of points (..., k), float32: what is to be added to the initial values. Differentiable."""

    def tensors(self) -> dict[str, Tensor]:
        """Field -> tensor: all that is to be kept."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""

    def random(self, generator: torch.Generator) -> Self:
        """The control: random directions of the same lengths."""


class Matrix:
    """What decoders that are a matrix have in common: V (D, k)."""

    decoder_weight: Tensor

    @property
    def k(self) -> int:
        """Dimensions of the subspace."""
        return self.decoder_weight.shape[1]

    @property
    def size(self) -> int:
        """D, the length of the delta."""
        return self.decoder_weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.decoder_weight.device

    def decode(self, points: Tensor) -> Tensor:
        """Deltas (..., D) of points (..., k), float32: what is to be added to the initial values. Differentiable."""
        with as_kept(points):
            return functional.linear(points.to(self.decoder_weight.dtype), self.decoder_weight).float()


@dataclass(frozen=True)
class Projection(Matrix):
    """Encoder and decoder of one delta, all tensors of one dtype.

    Args:
        encoder_weight: W1 (k, D).
        encoder_bias: b1 (k,).
        encoder_low_weight: W2 (k, k).
        encoder_low_bias: b2 (k,).
        decoder_weight: V (D, k).
    """

    encoder_weight: Tensor
    encoder_bias: Tensor
    encoder_low_weight: Tensor
    encoder_low_bias: Tensor
    decoder_weight: Tensor

    def __post_init__(self) -> None:
        """Check shapes."""
        k, size = self.encoder_weight.shape
        expected = [(k, size), (k,), (k, k), (k,), (size, k)]
        found = [tuple(tensor.shape) for tensor in self.tensors().values()]
        if found != expected:
            raise DeltatuneError(f"a projection of {size} values to {k} has tensors {expected}, got {found}")

    def tensors(self) -> dict[str, Tensor]:
        """Field -> tensor."""
        return {item.name: getattr(self, item.name) for item in fields(Projection)}

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def random(self, generator: torch.Generator) -> Self:
        """The control: a decoder whose columns have random directions and the lengths of those of V."""
        return replace(self, decoder_weight=random_columns(self.decoder_weight, generator))

    def encode(self, vectors: Tensor, activation: Activation = "tanh", second: Projection | None = None) -> Tensor:
        """Points (..., k) of deltas (..., D), float32. Differentiable.

        Args:
            vectors: differences to the initial values.
            activation: f.
            second: whose W2 and b2 are used; its own by default (the published multi-task program took LoRA's for the adapter).
        """
        low = second or self
        dtype = self.encoder_weight.dtype
        with as_kept(vectors):
            inner = ACTIVATIONS[activation](functional.linear(vectors.to(dtype), self.encoder_weight, self.encoder_bias))
            return functional.linear(inner, low.encoder_low_weight, low.encoder_low_bias).float()


def as_kept(tensor: Tensor) -> AbstractContextManager[None]:
    """Compute in the type that the projections are kept in, also where the model computes in bfloat16.

    They are read once for each use, so a copy in another type costs more than it saves.
    """
    context: AbstractContextManager[None] = torch.autocast(tensor.device.type, enabled=False)
    return context


def draw(size: int, k: int, generator: torch.Generator, std: float = STD, dtype: torch.dtype = torch.float32) -> Projection:
    """The published start: weights and biases N(0, std^2), drawn on the CPU in float32.

    Raises:
        DeltatuneError: no dimension, or no value.
    """
    return Projection(**{field: tensor.to(dtype) for field, tensor in first_values(size, k, generator, std)})


def first_values(size: int, k: int, generator: torch.Generator, std: float = STD) -> Iterator[tuple[str, Tensor]]:
    """(field, tensor) of `draw`, one after another in float32.

    Raises:
        DeltatuneError: as `draw`.
    """
    if k < 1 or size < 1:
        raise DeltatuneError(f"a subspace has at least 1 dimension and a delta at least 1 value, got k {k} and {size} values")
    shapes = ((k, size), (k,), (k, k), (k,), (size, k))
    for item, shape in zip(fields(Projection), shapes, strict=True):
        yield item.name, torch.randn(shape, generator=generator).mul_(std)


def parameter_count(size: int, k: int) -> int:
    """Scalars of a projection: D k + k + k^2 + k + D k."""
    return 2 * size * k + k * k + 2 * k


def random_columns(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A matrix of random columns, drawn on the CPU, with the lengths of those of `weight` and its dtype."""
    columns = torch.randn(weight.shape, generator=generator).to(weight.device)
    scaled: Tensor = columns * (weight.float().norm(dim=0) / columns.norm(dim=0))
    return scaled.to(weight.dtype)


def named(decoders: Mapping[str, Decoder]) -> dict[str, Tensor]:
    """`delta.field` -> tensor, for files and optimizers."""
    return {f"{name}.{field}": tensor for name, own in decoders.items() for field, tensor in own.tensors().items()}
