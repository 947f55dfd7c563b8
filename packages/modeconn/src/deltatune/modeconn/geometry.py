"""The plane through three points of weight space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from deltatune.core.errors import DeltatuneError


@dataclass(frozen=True)
class Plane:
    """Orthonormal coordinates on the plane through p_1, p_2, p_3: p_1 is the origin, p_2 lies on the first axis.

    Args:
        u: distance of p_2 from p_1.
        p: first coordinate of p_3.
        q: second coordinate of p_3, above 0.
    """

    u: float
    p: float
    q: float

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """The three points."""
        return (0.0, 0.0), (self.u, 0.0), (self.p, self.q)

    def coefficients(self, x: float, y: float) -> tuple[float, float, float]:
        """Weights of the three points, of sum 1, at the coordinates (x, y)."""
        third = y / self.q
        second = (x - self.p * third) / self.u
        return 1.0 - second - third, second, third

    def grid(self, points: int, margin: float) -> list[tuple[float, float]]:
        """Places (x, y), `points` in each direction, over the triangle's box widened by `margin` of its size; row after row."""
        low, high = min(0.0, self.p), max(self.u, self.p)
        xs = _spread(low, high, points, margin)
        return [(x, y) for y in _spread(0.0, self.q, points, margin) for x in xs]


def _spread(low: float, high: float, points: int, margin: float) -> list[float]:
    start, size = low - margin * (high - low), (1 + 2 * margin) * (high - low)
    return [start + size * i / (points - 1) for i in range(points)]


def plane(gram: Sequence[Sequence[float]]) -> Plane:
    """The plane from the inner products of three points (in any common origin).

    Raises:
        DeltatuneError: the three lie on one line.
    """

    def inner(i: int, j: int) -> float:
        """(p_i - p_1) . (p_j - p_1)."""
        return gram[i][j] - gram[i][0] - gram[0][j] + gram[0][0]

    u = sqrt(max(0.0, inner(1, 1)))
    p = inner(1, 2) / u if u else 0.0
    q = sqrt(max(0.0, inner(2, 2) - p * p))
    if not u or q < 1e-6 * sqrt(max(inner(2, 2), 1e-30)):
        raise DeltatuneError("the three points lie on one line, so they span no plane; give three different runs")
    return Plane(u, p, q)
