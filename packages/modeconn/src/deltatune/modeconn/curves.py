"""Curves between tuned models: coefficients of their points, and where their free points start.

A point of a curve is a weighted sum of the ends and of n free control points ("bends"); a curve is therefore a function from t to
coefficients, and `deltatune.core.paths.walk` evaluates it like a line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import comb
from typing import Literal

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError

Kind = Literal["bezier", "polychain"]
# A file of three random numbers of the published delta version, and the points of its whole-model version.
PUBLISHED_VALIDATION = (0.7725638477843416, 0.3729565378240084, 0.5129354059597469)
EVEN_VALIDATION = (0.25, 0.5, 0.75)


def bernstein(degree: int, t: float) -> tuple[float, ...]:
    """Coefficients of the Bezier curve of `degree` at t: C(degree, i) (1 - t)^(degree - i) t^i for i = 0..degree.

    Degree 1 is the straight line, degree 2 the quadratic curve with one control point (Garipov et al. 2018, eq. 4).
    """
    return tuple(comb(degree, i) * (1 - t) ** (degree - i) * t**i for i in range(degree + 1))


def polychain(points: int, t: float) -> tuple[float, ...]:
    """Coefficients of the polygonal chain through `points` points at t: max(0, 1 - |t (points - 1) - i|)."""
    return tuple(max(0.0, 1.0 - abs(t * (points - 1) - i)) for i in range(points))


def curve(kind: Kind, bends: int) -> Callable[[float], tuple[float, ...]]:
    """The coefficients of left end, `bends` control points and right end as a function of t.

    Raises:
        DeltatuneError: no bend.
    """
    if bends < 1:
        raise DeltatuneError(f"a curve needs at least one bend, got {bends}; a line without any is `walk`")
    return partial(bernstein, bends + 1) if kind == "bezier" else partial(polychain, bends + 2)


def along(coefficients: Sequence[float], left: Tensor, right: Tensor, controls: Tensor) -> Tensor:
    """The point of a curve as a flat vector (D,), differentiable in the controls.

    Args:
        coefficients: of left end, controls, right end.
        left: (D,).
        right: (D,).
        controls: (bends, D).
    """
    first, *inner, last = coefficients
    point = first * left + last * right
    for weight, control in zip(inner, controls, strict=True):
        point = point + weight * control
    return point


def straight(left: Tensor, right: Tensor, bends: int) -> Tensor:
    """Controls (bends, D) on the straight line, at j / (bends + 1): the curve is the line at first."""
    shares = [j / (bends + 1) for j in range(1, bends + 1)]
    return torch.stack([(1 - share) * left + share * right for share in shares])


def same_middle(left: Tensor, right: Tensor, bends: int) -> Tensor:
    """Controls (bends, D) that all start at (left + right) / 2, as the published whole-model version has them."""
    return ((left + right) / 2).expand(bends, -1).clone()
