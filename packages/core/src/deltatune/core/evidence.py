"""What commands that advise share: a budget of time, folds, a constant answer, differences over the same examples, judging."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltatune.core.data import Example
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores
from deltatune.core.metrics import higher_is_better, score

_RESAMPLES = 100  # of the examples, for the spread of a metric that is no mean over them


@dataclass
class Clock:
    """A budget of wall-clock seconds that began with the object.

    Args:
        budget: seconds for everything.
        fewer: what else than a larger budget helps where it is too small.
    """

    budget: float
    fewer: str = "try fewer deltas or examples (--max_dev, --max_train)"

    def __post_init__(self) -> None:
        self.begun = time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.begun

    @property
    def now(self) -> float:
        """As `time.perf_counter`."""
        return time.perf_counter()

    def require(self, needed: float, what: str) -> None:
        """Require that the rest of the budget is enough.

        Raises:
            DeltatuneError: it is not; with the budget that would be.
        """
        if self.spent + needed > self.budget:
            least = 5 * (1 + int((self.spent + needed) * 1.1 / 5))
            raise DeltatuneError(
                f"--budget {self.budget:g} s is too small for {what}: about {least} s are needed; raise it, or {self.fewer}"
            )


def deal(examples: Sequence[Example], folds: int) -> list[list[int]]:
    """Numbers of the examples of each fold: every label is dealt out over the folds in turn."""
    by_label: dict[object, list[int]] = {}
    for i, example in enumerate(examples):
        by_label.setdefault(example.label if example.label is not None else "", []).append(i)
    order = [i for rows in by_label.values() for i in rows]
    return [sorted(order[fold::folds]) for fold in range(folds)]


def constant(metric: str, references: Sequence[Any]) -> Scores:
    """The scores of always giving the most frequent class, or the mean value."""
    mean = isinstance(references[0], float)
    answer = math.fsum(references) / len(references) if mean else Counter(references).most_common(1)[0][0]
    predictions = [answer] * len(references)
    found = score(metric, predictions, list(references))
    return Scores(found.value, metric, float("nan"), found.stderr, len(references), predictions, found.per_example)


class Comparison:
    """Differences of scores over the same examples.

    Args:
        references: what predictions are compared with, one an example.
    """

    def __init__(self, references: Sequence[Any]) -> None:
        """Nothing compared yet."""
        self.references = references
        # With the scores themselves: an id is free for another object once its own is gone.
        self._resampled: dict[int, tuple[Scores, list[float]]] = {}

    def gap(self, left: Scores, right: Scores) -> tuple[float, float]:
        """How much better `left` is, and the standard error of that.

        Of a metric that is a mean over examples, from the differences one by one; of another, from resampled examples (seed 0).
        """
        sign = 1.0 if higher_is_better(left.metric) else -1.0
        difference = sign * (left.value - right.value)
        if left.stderr is not None and left.per_example is not None and right.per_example is not None:
            apart = np.asarray(left.per_example) - np.asarray(right.per_example)
            return difference, float(apart.std(ddof=1) / math.sqrt(len(apart))) if len(apart) > 1 else 0.0
        spread = np.asarray(self._values(left)) - np.asarray(self._values(right))
        return difference, float(np.nanstd(spread, ddof=1))

    def clearly(self, left: Scores, right: Scores) -> bool:
        """Whether `left` is better by more than one standard error."""
        difference, error = self.gap(left, right)
        return difference > error

    def _values(self, scores: Scores) -> list[float]:
        """The metric on resampled examples, the same ones for all scores."""
        if id(scores) not in self._resampled:
            draw, count = np.random.default_rng(0), len(self.references)
            found = []
            for _ in range(_RESAMPLES):
                rows = draw.integers(count, size=count).tolist()
                chosen = ([side[row] for row in rows] for side in (scores.predictions, self.references))
                found.append(score(scores.metric, *chosen).value)
            self._resampled[id(scores)] = scores, found
        return self._resampled[id(scores)][1]


@dataclass(frozen=True)
class Truth:
    """What one way to go on was worth, found out afterwards.

    Args:
        value: its score, greater is better.
        cost: what it took, in any unit that is the same everywhere.
    """

    value: float
    cost: float


def judge(
    choices: Mapping[str, Sequence[str]], truths: Sequence[Mapping[str, Truth]], near: Sequence[float]
) -> list[dict[str, Any]]:
    """How good it is to go by advice, and by a fixed rule instead.

    Args:
        choices: name of a policy -> the way that it takes in each case.
        truths: of each case, way -> what it was worth; all ways that any policy takes there.
        near: of each case, how far below the best way's score a way is as good as the best.

    Returns:
        for each policy `agreement` (share of cases in which its way is as good as the best), `regret` and `worst` (mean and
        largest amount by which the best way's score exceeds that of its way) and `cost` (mean of its ways).
    """
    found = []
    for policy, ways in choices.items():
        losses = [max(truth.value for truth in case.values()) - case[way].value for way, case in zip(ways, truths, strict=True)]
        agreed = sum(loss <= width for loss, width in zip(losses, near, strict=True))
        cost = math.fsum(case[way].cost for way, case in zip(ways, truths, strict=True)) / len(ways)
        row = {"policy": policy, "agreement": agreed / len(ways), "regret": math.fsum(losses) / len(ways), "worst": max(losses)}
        found.append({**row, "cost": cost, "cases": len(ways)})
    return found
