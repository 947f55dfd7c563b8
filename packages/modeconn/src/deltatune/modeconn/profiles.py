"""What the values along a path say: the barrier, the drop, means, and which points are better than both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import fsum, sqrt
from typing import Any

from deltatune.core.paths import barrier, drop

TOLERANCE = 0.02
"""Deepest drop of a score between 0 and 1 that still counts as connected. The paper gives no number."""


@dataclass(frozen=True)
class Profile:
    """Statistics of the values v at t_0..t_T of a path.

    Args:
        barrier: max_t [v(t) - chord(t)], at least 0; what matters where v is a loss.
        argmax: the t where it is taken.
        over_worse_end: max v - max(v(0), v(1)).
        over_mean_of_ends: max v - (v(0) + v(1)) / 2.
        relative: barrier divided by the mean of the ends; None where that is 0.
        drop: max_t [chord(t) - v(t)], at least 0; what matters where v is a score.
        argdrop: the t where it is taken.
        left: v(0).
        right: v(1).
        minimum: least value.
        maximum: greatest value.
        mean: of the points.
        area: the integral of v - chord over t, by trapezoids; negative where the path is mostly below the chord.
        length: sum of the distances between consecutive points; None where those are not known.
        arc_length_mean: sum of 0.5 (v_{k-1} + v_k) d_k divided by the length (Garipov et al. 2018); None likewise.
    """

    barrier: float
    argmax: float
    over_worse_end: float
    over_mean_of_ends: float
    relative: float | None
    drop: float
    argdrop: float
    left: float
    right: float
    minimum: float
    maximum: float
    mean: float
    area: float
    length: float | None = None
    arc_length_mean: float | None = None

    def numbers(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def profile(places: Sequence[float], values: Sequence[float], segments: Sequence[float] | None = None) -> Profile:
    """Statistics of `values` at `places`.

    Args:
        places: t from 0 to 1, ascending, both ends included.
        values: a loss or a score at each.
        segments: distance of each point from the one before it; the first is 0.
    """
    first, last = values[0], values[-1]
    above = [v - ((1 - t) * first + t * last) for t, v in zip(places, values, strict=True)]
    mean_of_ends = (first + last) / 2
    area = fsum((a + b) / 2 * (t - s) for a, b, s, t in zip(above, above[1:], places, places[1:], strict=False))
    rise = max(0.0, barrier(places, values))
    return Profile(
        barrier=rise,
        argmax=places[above.index(max(above))],
        over_worse_end=max(values) - max(first, last),
        over_mean_of_ends=max(values) - mean_of_ends,
        relative=rise / mean_of_ends if mean_of_ends else None,
        drop=max(0.0, drop(places, values)),
        argdrop=places[above.index(min(above))],
        left=first,
        right=last,
        minimum=min(values),
        maximum=max(values),
        mean=fsum(values) / len(values),
        area=area,
        length=fsum(segments) if segments is not None else None,
        arc_length_mean=arc_length_mean(values, segments) if segments is not None else None,
    )


def arc_length_mean(values: Sequence[float], segments: Sequence[float]) -> float | None:
    """sum_k 0.5 (v_{k-1} + v_k) d_k / sum_k d_k with d_k = `segments[k]`; None for a path of no length."""
    length = fsum(segments[1:])
    if not length:
        return None
    return fsum((a + b) / 2 * d for a, b, d in zip(values, values[1:], segments[1:], strict=False)) / length


def line_segments(places: Sequence[float], distance: float) -> list[float]:
    """Distances between consecutive points of a straight line whose ends are `distance` apart."""
    return [0.0, *((t - s) * distance for s, t in pairwise(places))]


def curve_segments(coefficients: Sequence[Sequence[float]], gram: Sequence[Sequence[float]]) -> list[float]:
    """Distances between consecutive points of a curve, from the coefficients of its points and the inner products of its parts.

    Args:
        coefficients: of each point; the differences of two sum to 0, so `gram` may be taken from any origin.
        gram: inner product of each pair of parts (ends and controls).
    """
    found = [0.0]
    for before, after in pairwise(coefficients):
        step = [b - a for a, b in zip(before, after, strict=True)]
        square = fsum(x * y * gram[i][j] for i, x in enumerate(step) for j, y in enumerate(step))
        found.append(sqrt(max(0.0, square)))
    return found


def better(places: Sequence[float], scores: Sequence[float]) -> list[float]:
    """The places whose score is above those of both ends."""
    limit = max(scores[0], scores[-1])
    return [place for place, score in zip(places, scores, strict=True) if score > limit]
