"""What examples say of combinations: held-out scores, gains with intervals, and which combination follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from deltatune.combos.combination import Combination
from deltatune.core.evaluation import Scores
from deltatune.core.evidence import Comparison, constant
from deltatune.core.metrics import higher_is_better, score


@dataclass(frozen=True)
class Way:
    """What is tried: a combination, and its learning rate (None: one that suits the deltas)."""

    combination: Combination
    rate: float | None = None

    @property
    def name(self) -> str:
        """In tables."""
        return str(self.combination) + ("" if self.rate is None else f" at {self.rate:g}")


@dataclass(frozen=True)
class Evidence:
    """What the examples say of one way.

    Args:
        way: what was tried.
        held_out: scores of the examples by trainings that had not seen them.
        gain: score minus that of the reference over the same examples, in the metric's unit; positive is better.
        low: lower end of the 95% interval of the gain.
        high: upper end.
        trained: numbers that are trained.
        seconds: of one training.
    """

    way: Way
    held_out: Scores
    gain: float
    low: float
    high: float
    trained: int
    seconds: float

    def numbers(self) -> dict[str, Any]:
        """For records."""
        held = {f"held_out_{name}": value for name, value in self.held_out.numbers().items() if name != "extra"}
        own = {name: getattr(self, name) for name in ("gain", "low", "high", "trained")}
        return {"methods": str(self.way.combination), "rate": self.way.rate, **held, **own, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Suggestion:
    """The outcome.

    Args:
        evidence: of every way, best first; the first is suggested.
        reference: what gains are counted from.
        constant: scores of always giving the most frequent answer.
        updates: of every training.
        folds: that were held out; fewer than asked for where the time was up.
        above_chance: whether the first is clearly better than the constant answer.
    """

    evidence: list[Evidence]
    reference: Way
    constant: Scores
    updates: int
    folds: int
    above_chance: bool

    @property
    def sure(self) -> bool:
        """Whether the interval says that the first is better than the reference."""
        return self.evidence[0].low > 0

    @property
    def undecided(self) -> list[Evidence]:
        """The other ways that the examples do not tell from the first: their interval reaches its gain."""
        return [item for item in self.evidence[1:] if item.high >= self.evidence[0].gain]


@dataclass(frozen=True)
class Cost:
    """Of a way: numbers that are trained, seconds of one training."""

    trained: int = 0
    seconds: float = 0.0


def conclude(held: Mapping[Way, Sequence[Scores]], costs: Mapping[Way, Cost], reference: Way, updates: int) -> Suggestion:
    """What follows from the scores of every fold; the best held-out score is suggested, of equal ones the lowest loss.

    Args:
        held: scores of every way on the held-out examples, fold by fold, the same folds for all.
        costs: of every way.
        reference: one of the ways.
        updates: of every training.
    """
    pooled = {way: _pooled(scores) for way, scores in held.items()}
    references, metric = pooled[reference].references, pooled[reference].metric
    compared, width = Comparison(references), float(stats.t.ppf(0.975, len(references) - 1))
    evidence = []
    for way, scores in pooled.items():
        gain, error = compared.gap(scores, pooled[reference])
        cost = costs.get(way, Cost())
        evidence.append(Evidence(way, scores, gain, gain - width * error, gain + width * error, cost.trained, cost.seconds))
    sign = 1 if higher_is_better(metric) else -1
    evidence.sort(key=lambda item: (-_or_worst(sign * item.held_out.value), item.held_out.loss))
    always = constant(metric, references)
    above = math.isnan(always.value) or compared.clearly(evidence[0].held_out, always)
    return Suggestion(evidence, reference, always, updates, len(held[reference]), above)


def _or_worst(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _pooled(parts: Sequence[Scores]) -> Scores:
    """The scores of all folds' examples as one evaluation."""
    predictions = [item for part in parts for item in part.predictions]
    references = [item for part in parts for item in part.references]
    found, metric = score(parts[0].metric, predictions, references), parts[0].metric
    loss = math.fsum(part.loss * part.n for part in parts) / len(references)
    return Scores(found.value, metric, loss, found.stderr, len(references), predictions, found.per_example, references)
