"""Decoders without encoders: maps from the subspace to a delta that are learned on a task, with no solution to encode.

Two kinds, the published program's second path: a matrix for small deltas, and a structured random projection of every tensor for
the difference that fine-tuning makes, of which only the scales G are trained (see `deltatune.subspace.intrinsic`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.subspace.intrinsic import Fastfood, draw_fastfood
from deltatune.subspace.projections import Decoder, Matrix, Projection, random_columns


@dataclass(frozen=True)
class Linear(Matrix):
    """V P without an encoder.

    Args:
        decoder_weight: V (D, k).
    """

    decoder_weight: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Field -> tensor."""
        return {"decoder_weight": self.decoder_weight}

    def to(self, device: torch.device) -> Linear:
        """The same on another device."""
        return Linear(self.decoder_weight.to(device))

    def random(self, generator: torch.Generator) -> Linear:
        """The control: columns of random directions and the same lengths."""
        return Linear(random_columns(self.decoder_weight, generator))


@dataclass(frozen=True)
class Structured:
    """A structured random projection for each tensor of a delta, one after another in its vector.

    Args:
        signs: B of all, (sum of LL,).
        order: Pi of all, (sum of LL,) int64, each counted from its own start.
        scale: G of all, (sum of LL,).
        divisors: of the first values of G, one for each tensor, float64, on the CPU.
        lengths: DD of each tensor, int64, on the CPU.
        dimensions: k, () int64, on the CPU.
    """

    signs: Tensor
    order: Tensor
    scale: Tensor
    divisors: Tensor
    lengths: Tensor
    dimensions: Tensor

    @property
    def k(self) -> int:
        """Dimensions of the subspace."""
        return int(self.dimensions)

    @property
    def size(self) -> int:
        """D, the length of the delta."""
        return int(self.lengths.sum())

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.scale.device

    def tensors(self) -> dict[str, Tensor]:
        """Field -> tensor."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def to(self, device: torch.device) -> Structured:
        """The same on another device; the few numbers that decide shapes stay on the CPU."""
        return replace(self, signs=self.signs.to(device), order=self.order.to(device), scale=self.scale.to(device))

    def parts(self) -> Iterator[Fastfood]:
        """The projection of each tensor, with views of these tensors."""
        start = 0
        for length, divisor in zip(self.lengths.tolist(), self.divisors.tolist(), strict=True):
            own = slice(start, start := start + padded(length, self.k))
            yield Fastfood(self.signs[own], self.order[own], self.scale[own], divisor, length)

    def decode(self, points: Tensor) -> Tensor:
        """Deltas (..., D) of points (..., k). Differentiable, in the scales too."""
        return torch.cat([part(points) for part in self.parts()], dim=-1)

    def random(self, generator: torch.Generator) -> Structured:
        """The control: other signs, orders and scales, the scales of each tensor as long as they are."""
        fresh = draw_structured(self.lengths.tolist(), self.k, generator).to(self.device)
        pairs = zip(self.parts(), fresh.parts(), strict=True)
        scale = torch.cat([new.scale * (own.scale.norm() / new.scale.norm()) for own, new in pairs])
        return replace(fresh, scale=scale, divisors=self.divisors)


@dataclass(frozen=True)
class Masked:
    """A control: of what another decoder gives, some values only.

    Args:
        inner: the other decoder.
        kept: 1 or 0 for each value of the delta (D,).
    """

    inner: Decoder
    kept: Tensor

    @property
    def k(self) -> int:
        """Dimensions of the subspace."""
        return self.inner.k

    @property
    def size(self) -> int:
        """D, the length of the delta."""
        return self.inner.size

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.inner.device

    def decode(self, points: Tensor) -> Tensor:
        """Deltas (..., D) of points (..., k), 0 where nothing is kept. Differentiable."""
        return self.inner.decode(points) * self.kept

    def tensors(self) -> dict[str, Tensor]:
        """Those of the other."""
        return self.inner.tensors()

    def to(self, device: torch.device) -> Masked:
        """The same on another device."""
        return Masked(self.inner.to(device), self.kept.to(device))

    def random(self, generator: torch.Generator) -> Masked:
        """Of random directions, the same values."""
        return Masked(self.inner.random(generator), self.kept)


def padded(length: int, k: int) -> int:
    """LL: the power of two that holds a tensor of `length` values and k coordinates."""
    return 1 << max(length - 1, k - 1, 0).bit_length()


def draw_structured(lengths: Sequence[int], k: int, generator: torch.Generator) -> Structured:
    """Projections to tensors of these lengths, drawn on the CPU."""
    parts = [draw_fastfood(length, generator, padded(length, k)) for length in lengths]
    signs, order, scale = (torch.cat([getattr(part, name) for part in parts]) for name in ("signs", "order", "scale"))
    divisors = torch.tensor([part.divisor for part in parts], dtype=torch.float64)
    return Structured(signs, order, scale, divisors, torch.tensor(list(lengths)), torch.tensor(k))


KINDS: dict[str, type[Projection | Linear | Structured]] = {
    "projection": Projection,
    "linear": Linear,
    "structured": Structured,
}


def kind_of(decoder: Decoder) -> str:
    """The name of a decoder's kind in files."""
    return next(name for name, kind in KINDS.items() if isinstance(decoder, kind))


def from_named(tensors: Mapping[str, Tensor], kinds: Mapping[str, str]) -> dict[str, Decoder]:
    """The inverse of `deltatune.subspace.projections.named` for deltas with decoders of these kinds.

    Raises:
        DeltatuneError: a tensor is missing.
    """
    found: dict[str, Decoder] = {}
    for name, kind in kinds.items():
        wanted = [item.name for item in fields(KINDS[kind])]
        if lost := [field for field in wanted if f"{name}.{field}" not in tensors]:
            raise DeltatuneError(f"the projection of {name} has no {lost[0]}; the file is damaged, approximate again")
        found[name] = KINDS[kind](**{field: tensors[f"{name}.{field}"] for field in wanted})
    return found
