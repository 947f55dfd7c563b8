"""Scores on a grid of the subspace: the triangle of three points, or a random plane through their middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import higher_is_better

Plane = Literal["triangle", "random"]
GOOD = 0.9  # of its own best score: where a delta counts as working


def triangle(resolution: int) -> list[tuple[float, float, float]]:
    """Shares of three corners at equal distances, corners included: (r + 1)(r + 2) / 2 points.

    Raises:
        DeltatuneError: a resolution below 1.
    """
    if resolution < 1:
        raise DeltatuneError(f"--resolution must be at least 1, got {resolution}")
    steps = range(resolution + 1)
    return [
        (i / resolution, j / resolution, (resolution - i - j) / resolution) for i in steps for j in steps if i + j <= resolution
    ]


def plane(resolution: int) -> list[tuple[float, float]]:
    """Places of a square grid of (2 r + 1)^2 points from -1 to 1.

    Raises:
        DeltatuneError: a resolution below 1.
    """
    if resolution < 1:
        raise DeltatuneError(f"--resolution must be at least 1, got {resolution}")
    line = [i / resolution for i in range(-resolution, resolution + 1)]
    return [(x, y) for y in line for x in line]


def axes(k: int, length: float, generator: torch.Generator) -> Tensor:
    """Two random directions at a right angle, (2, k), each `length` long.

    Raises:
        DeltatuneError: a subspace of one dimension.
    """
    if k < 2:
        raise DeltatuneError(f"a plane needs a subspace of at least 2 dimensions, got {k}; take --plane triangle")
    drawn = torch.randn(k, 2, generator=generator)
    orthogonal: Tensor = torch.linalg.qr(drawn)[0]
    return orthogonal.T * length


def flat(shares: Sequence[float]) -> tuple[float, float]:
    """Where shares of three corners are drawn: corners at (0, 0), (1, 0) and (1/2, sqrt(3)/2)."""
    return shares[1] + shares[2] / 2, shares[2] * 3**0.5 / 2


def common_region(scores: Mapping[str, Sequence[float]]) -> float:
    """Share of the points where every delta works: has at least 90% of its own best score, which is above 0.

    Scores are at equal points, and better if greater.
    """
    good = [np.asarray(values) >= GOOD * max(values) - 1e-9 for values in scores.values() if max(values) > 0]
    return float(np.logical_and.reduce(good).mean()) if len(good) == len(scores) else 0.0


def correlations(scores: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """Rank correlation of the score maps of each pair of deltas; None where one map is constant."""
    names, found = list(scores), {}
    for i, left in enumerate(names):
        for right in names[i + 1 :]:
            constant = len(set(scores[left])) == 1 or len(set(scores[right])) == 1
            found[f"{left}, {right}"] = None if constant else float(spearmanr(scores[left], scores[right]).statistic)
    return found


def summary(records: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """The common region and the correlations of a landscape's records on one split; of an error its inverse is the score."""
    own = [record for record in records if record["split"] == split]
    scores: dict[str, list[float]] = {}
    for record in own:
        value, better = record["value"], higher_is_better(record["metric"])
        score = 0.0 if value is None else value if better else 1 / max(value, 1e-12)
        scores.setdefault(record["delta"], []).append(score)
    return {"split": split, "common_region": common_region(scores), "correlations": correlations(scores)} if own else {}
