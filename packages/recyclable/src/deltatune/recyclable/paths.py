"""The record of a path between two tuned models: the published table, the best point, the barrier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deltatune.core.paths import barrier, drop

COLUMNS = ("prefix", "metric", "x", "dev_performance", "dev_loss", "test_performance", "test_loss")


@dataclass(frozen=True)
class Point:
    """What was measured at one place of a path; None where there are no such examples."""

    x: float
    dev_performance: float | None = None
    dev_loss: float | None = None
    test_performance: float | None = None
    test_loss: float | None = None

    def numbers(self) -> tuple[float | None, ...]:
        """In the order of the table."""
        return self.x, self.dev_performance, self.dev_loss, self.test_performance, self.test_loss


def table(points: Sequence[Point], prefix: str = "~", metric: str = "acc") -> str:
    """The published `result.csv`: one row a point, four decimals, all written from what is in memory (defect D22)."""
    rows = [",".join(COLUMNS)]
    for point in points:
        rows.append(",".join([prefix, metric, *("" if value is None else f"{value:.4f}" for value in point.numbers())]))
    return "\n".join(rows) + "\n"


def best(points: Sequence[Point]) -> Point | None:
    """The point with the highest dev score in full precision, the first of equal ones; None without dev scores."""
    scored = [point for point in points if point.dev_performance is not None]
    return max(scored, key=lambda point: point.dev_performance or 0.0, default=None)


def summary(points: Sequence[Point]) -> dict[str, float]:
    """For dev and test: the loss barrier, the drop of the score below the chord, and the lowest score."""
    found: dict[str, float] = {}
    places = [point.x for point in points]
    for split in ("dev", "test"):
        losses = [loss for point in points if (loss := getattr(point, f"{split}_loss")) is not None]
        scores = [score for point in points if (score := getattr(point, f"{split}_performance")) is not None]
        if len(losses) == len(points):
            found[f"{split}_loss_barrier"] = barrier(places, losses)
        if len(scores) == len(points):
            found |= {f"{split}_drop": drop(places, scores), f"{split}_lowest": min(scores)}
    return found
