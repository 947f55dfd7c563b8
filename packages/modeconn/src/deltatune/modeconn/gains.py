"""Whether one model is really better than another on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import fsum
from typing import Any

from deltatune.core.metrics.scoring import standard_error


@dataclass(frozen=True)
class Gain:
    """The paired difference of two lists of scores.

    Args:
        mean: of the differences.
        stderr: its standard error; None for fewer than two examples.
        wins: examples on which the first is better.
        losses: on which it is worse.
        p: of the two-sided exact sign test; 1 where nothing differs.
        n: examples.
    """

    mean: float
    stderr: float | None
    wins: int
    losses: int
    p: float
    n: int

    def numbers(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def gain(scores: Sequence[float], others: Sequence[float]) -> Gain:
    """How much better `scores` are than `others`, example by example."""
    from scipy.stats import binomtest

    gaps = [a - b for a, b in zip(scores, others, strict=True)]
    wins, losses = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Gain(fsum(gaps) / len(gaps), standard_error(gaps), wins, losses, p, len(gaps))
