"""Structured random projections: a way from a few numbers to the many of a whole model.

The structured projection (Fastfood) of I (k,) to DD values, LL the next power of two, is

    F(I) = [ H (G * Pi (H (B * pad(I)))) ][:DD] / (divisor sqrt(DD / LL)),   divisor = sqrt(LL sum G^2)

with H the Walsh-Hadamard transform without normalisation, B random signs, Pi a random permutation, G normal. G may be trained;
the divisor stays that of its first values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError


def fwht(values: Tensor, dim: int = -1, published_backward: bool = False) -> Tensor:
    """The Walsh-Hadamard transform along `dim`, in natural order, without normalisation. Differentiable.

    Args:
        values: any shape; `dim` has a power of two of entries.
        dim: the axis.
        published_backward: divide the gradient by the square root of the axis's length, a defect of the published program.

    Raises:
        DeltatuneError: the length of the axis is no power of two.
    """
    size = values.shape[dim]
    if size & (size - 1) or not size:
        raise DeltatuneError(f"the Walsh-Hadamard transform takes a power of two of values, got {size}; pad them")
    if published_backward:
        return _PublishedTransform.apply(values, dim)  # type: ignore[no-any-return]
    return _transform(values, dim)


def _transform(values: Tensor, dim: int) -> Tensor:
    moved = values.movedim(dim, -1)
    shape, size, half = moved.shape, moved.shape[-1], 1
    while half < size:
        pairs = moved.reshape(*shape[:-1], size // (2 * half), 2, half)
        moved = torch.stack((pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]), dim=-2)
        half *= 2
    return moved.reshape(shape).movedim(-1, dim)


class _PublishedTransform(torch.autograd.Function):
    """`fwht` with the gradient of the published program."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        return _transform(values, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _transform(gradient, ctx.dim) / sqrt(gradient.shape[ctx.dim]), None


@dataclass(frozen=True)
class Fastfood:
    """A structured random projection.

    Args:
        signs: B (LL,), -1 or 1.
        order: Pi (LL,) int64; entry i of the result is entry `order[i]`.
        scale: G (LL,), which may require a gradient.
        divisor: of the first values of G.
        size: DD.
        published_backward: see `fwht`.
    """

    signs: Tensor
    order: Tensor
    scale: Tensor
    divisor: float
    size: int
    published_backward: bool = False

    def __post_init__(self) -> None:
        """Check shapes."""
        padded = len(self.signs)
        if not (padded == len(self.order) == len(self.scale) and padded >= self.size):
            raise DeltatuneError(f"fastfood: B, Pi and G have {padded}, {len(self.order)}, {len(self.scale)} entries")

    def __call__(self, point: Tensor) -> Tensor:
        """I (..., k) to (..., DD), k at most LL. Differentiable in I and G."""
        padded = torch.nn.functional.pad(point, (0, len(self.signs) - point.shape[-1]))
        mixed = fwht(self.signs * padded, published_backward=self.published_backward)[..., self.order]
        spread = fwht(self.scale * mixed, published_backward=self.published_backward)
        return spread[..., : self.size] / (self.divisor * sqrt(self.size / len(self.signs)))

    def to(self, device: torch.device) -> Fastfood:
        """The same on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("signs", "order", "scale")})


def draw_fastfood(size: int, generator: torch.Generator, padded: int | None = None) -> Fastfood:
    """A projection to `size` values, drawn on the CPU; LL is the next power of two, or `padded`."""
    padded = padded or 1 << max(0, size - 1).bit_length()
    signs = (torch.randint(0, 2, (padded,), generator=generator) * 2 - 1).float()
    order = torch.randperm(padded, generator=generator)
    scale = torch.randn(padded, generator=generator)
    return Fastfood(signs, order, scale, sqrt(padded * float(scale.double().square().sum())), size)


def draw_dense(size: int, k: int, generator: torch.Generator, std: float = 0.01) -> Tensor:
    """The dense alternative R (DD, k) ~ N(0, std^2); the projection is R I, without normalisation."""
    return torch.randn(size, k, generator=generator) * std
