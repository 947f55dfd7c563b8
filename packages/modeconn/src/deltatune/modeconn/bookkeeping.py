"""The published record of a path: the table of its points, and what happens to each example on the way.

An example is wrong at a score of 0 and right at 1; scores between (an F1) are neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from deltatune.core.errors import DeltatuneError
from deltatune.modeconn.profiles import better

COLUMNS = ("prefix", "metric", "x", "dev_performance", "dev_loss", "test_performance", "test_loss")
FILES = {"dev": "valid_data_analysis.json", "test": "test_data_analysis.json", "train": "train_data_analysis.json"}


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


def places(points: int) -> list[float]:
    """round(i / (points - 1), 3) for i = 0..points - 1: rounding is part of the published procedure.

    Raises:
        DeltatuneError: fewer than two points, or so many that rounding makes two of them one.
    """
    if not 2 <= points <= 1001:
        raise DeltatuneError(f"a path has from 2 to 1001 points, both ends included, got {points}")
    return [round(i / (points - 1), 3) for i in range(points)]


def table(points: Sequence[Point], prefix: str, metric: str) -> str:
    """The published `result.csv`: a row for each point with four decimals, and a last row `average` with the means.

    The average of the test scores is the mean, where the published program wrote 0 (defect D1); its x is the last one's.
    """
    rows = [",".join(COLUMNS)]
    means = Point(points[-1].x, *(_mean(column) for column in list(zip(*(p.numbers() for p in points), strict=True))[1:]))
    for name, point in [*((prefix, point) for point in points), ("average", means)]:
        rows.append(",".join([name, metric, *("" if value is None else f"{value:.4f}" for value in point.numbers())]))
    return "\n".join(rows) + "\n"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def solution(points: Sequence[Point]) -> dict[str, Any]:
    """Which points are better than both ends on dev, on test, and on both; the best dev score; means over the points.

    All in full precision: the published program chose among rounded values that it had read back (defect D10).
    """
    where = [point.x for point in points]
    columns = {name: [getattr(point, name) for point in points] for name in COLUMNS[3:]}
    found: dict[str, Any] = {}
    for split in ("dev", "test"):
        scores = columns[f"{split}_performance"]
        found[f"better_{split}"] = better(where, scores) if None not in scores else []
    found["better_dev_and_test"] = [x for x in found["better_dev"] if x in found["better_test"]]
    known = [score for score in columns["dev_performance"] if score is not None]
    found["best_dev_performance"] = max(known) if known else None
    return found | {f"mean_{name}": _mean(values) for name, values in columns.items()}


def transitions(scores: Sequence[Sequence[float]], changes: bool = True) -> list[dict[str, list[int]]]:
    """Lists of examples at each point of a path, as the published files hold them.

    Args:
        scores: of every example, at each point.
        changes: also list what changed; the published walk over training data does not.

    Returns:
        At each point `zero_list` (score 0) and `one_list` (score 1); with `changes`, `up_list` (higher than at the point before;
        at the first, all above 0) and `down_list`.
    """
    found = []
    before: Sequence[float] = [0.0] * len(scores[0])
    for number, now in enumerate(scores):
        lists = {
            "zero_list": [i for i, value in enumerate(now) if value == 0],
            "one_list": [i for i, value in enumerate(now) if value == 1],
        }
        if changes:
            lists["up_list"] = [i for i, (a, b) in enumerate(zip(before, now, strict=True)) if b > a]
            lists["down_list"] = [i for i, (a, b) in enumerate(zip(before, now, strict=True)) if b < a] if number else []
        found.append(lists)
        before = now
    return found


def counts(scores: Sequence[Sequence[float]]) -> list[dict[str, int]]:
    """Sizes of the lists at each point; `up_to_one_num` is now 1 and was less, `down_to_zero_num` is now 0 and was more."""
    found = []
    before: Sequence[float] = [0.0] * len(scores[0])
    for number, (lists, now) in enumerate(zip(transitions(scores), scores, strict=True)):
        sizes = {f"{name}_num": len(rows) for name, rows in lists.items()}
        pairs = list(zip(before, now, strict=True))
        sizes["up_to_one_num"] = sum(b == 1 and a < 1 for a, b in pairs)
        sizes["down_to_zero_num"] = sum(b == 0 and a > 0 for a, b in pairs) if number else 0
        found.append(sizes)
        before = now
    return found


@dataclass(frozen=True)
class Fates:
    """What becomes of the examples along a whole path, as row numbers.

    Args:
        forgotten: for each step, wrong after and not before it.
        remembered: for each step, wrong before and not after it.
        always_right: score 1 at every point.
        never_right: score 1 at no point.
    """

    forgotten: list[list[int]]
    remembered: list[list[int]]
    always_right: list[int]
    never_right: list[int]


def fates(lists: Sequence[Mapping[str, Sequence[int]]]) -> Fates:
    """The fates of examples from the `zero_list` and `one_list` of each point."""
    wrong = [set(item["zero_list"]) for item in lists]
    right = [set(item["one_list"]) for item in lists]
    every = set().union(*wrong, *right)
    return Fates(
        [sorted(after - before) for before, after in pairwise(wrong)],
        [sorted(before - after) for before, after in pairwise(wrong)],
        sorted(set.intersection(*right)),
        sorted(every - set().union(*right)),
    )


def key(place: float) -> str:
    """How a place is written in the published files: Python's text of the rounded number."""
    return str(round(place, 3))
