"""What an outdated delta is worth on an upgraded base: the evidence side by side, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deltatune.core.evaluation import Scores
from deltatune.core.evidence import Comparison

Advice = Literal["reuse as it is", "initialize from it", "distill from it", "tune afresh", "undecided"]
TRIED: dict[str, Advice] = {
    "untouched": "reuse as it is",
    "initialized": "initialize from it",
    "distilled": "distill from it",
    "fresh": "tune afresh",
}


@dataclass(frozen=True)
class Evidence:
    """Dev scores of one delta.

    Args:
        old: on its own base.
        tried: for each key of `TRIED`, the scores on the new base.
        constant: of always giving the most frequent answer.
        references: what predictions are compared with, one an example.
    """

    old: Scores
    tried: Mapping[str, Scores]
    constant: Scores
    references: Sequence[Any]


@dataclass(frozen=True)
class Verdict:
    """The advice and why.

    Args:
        advice: what to do.
        reason: one sentence with the numbers that decided.
        margin: the chosen way's score minus that of tuning afresh, in the metric's unit; positive is better.
    """

    advice: Advice
    reason: str
    margin: float

    def numbers(self) -> dict[str, Any]:
        """For records."""
        return vars(self)


def decide(evidence: Evidence) -> Verdict:
    """The advice.

    The outdated delta is reused as it is if nothing that was tried is better by more than one standard error of the
    difference. Otherwise the best trial is advised; a recycled one must beat tuning afresh by more than one standard error,
    since the two cost the same. Where the advised way is not above always giving the most frequent answer, the trials decide
    nothing.
    """
    tried, compared = evidence.tried, Comparison(evidence.references)
    untouched, fresh = tried["untouched"], tried["fresh"]
    trials = [name for name in tried if name != "untouched"]
    best = max(trials, key=lambda name: compared.gap(tried[name], untouched)[0])
    ahead, error = compared.gap(tried[best], untouched)
    chosen = best
    if ahead <= error:
        chosen = "untouched"
    elif best != "fresh" and not compared.clearly(tried[best], fresh):
        chosen = "fresh"
    margin, spread = compared.gap(tried[chosen], fresh)
    if not math.isnan(evidence.constant.value) and not compared.clearly(tried[chosen], evidence.constant):
        reason = (
            f"{chosen} it has {untouched.metric} {tried[chosen].value:.3f}, not clearly above always giving the most frequent "
            f"answer ({evidence.constant.value:.3f}); raise --budget or --max_dev"
        )
        return Verdict("undecided", reason, margin)
    value = f"{untouched.metric} {tried[chosen].value:.3f}"
    if chosen == "untouched":
        was = f"untouched it has {value}, and had {evidence.old.value:.3f} on the old base"
        return Verdict(TRIED[chosen], f"{was}; the best trial ({best}) gains {ahead:+.3f} ± {error:.3f}", margin)
    if chosen == "fresh":
        other = max((name for name in trials if name != "fresh"), key=lambda name: compared.gap(tried[name], fresh)[0])
        found, width = compared.gap(tried[other], fresh)
        beside = f"the best trial with the old delta ({other}) gains {found:+.3f} ± {width:.3f}"
        return Verdict(TRIED[chosen], f"afresh it has {value}; {beside}", 0.0)
    both = f"{margin:+.3f} ± {spread:.3f} against tuning afresh, {ahead:+.3f} ± {error:.3f} against leaving it untouched"
    return Verdict(TRIED[chosen], f"{chosen} it has {value}: {both}", margin)
