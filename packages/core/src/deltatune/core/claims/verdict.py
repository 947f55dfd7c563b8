"""The verdict: one rule for all claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deltatune.core.claims.claim import Claim, Side
from deltatune.core.claims.interval import Interval

Verdict = Literal["reproduced", "contradicted", "inconclusive", "void", "not run"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "inconclusive", "void", "not run")


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason.

    Args:
        verdict: one of `VERDICTS`.
        reason: one sentence.
        smallest: the effect nearest to the bound that would have been called reproduced with the spread these seeds had; None
            where they showed no spread, or where the verdict does not depend on it.
    """

    verdict: Verdict
    reason: str
    smallest: float | None = None


def lies(interval: Interval, side: Side, bound: float) -> bool:
    """Whether the interval lies beyond `bound` on `side`; an end on the bound itself counts only for "within"."""
    if interval.low is None or interval.high is None:
        return False
    if side == "within":
        return interval.low >= -bound and interval.high <= bound
    return interval.low > bound if side == "greater" else interval.high < bound


def refuted(interval: Interval, side: Side, bound: float) -> bool:
    """Whether the interval lies wholly on the other side of 0.

    A bound may itself lie there ("loses at most 2 points": above -2), and then an effect between the bound and 0 agrees with
    the claim; the farther of the two counts. The other side of "within" is outside of both bounds.
    """
    if interval.low is None or interval.high is None:
        return False
    if side == "within":
        return interval.low > bound or interval.high < -bound
    return interval.high < min(0.0, bound) if side == "greater" else interval.low > max(0.0, bound)


def rule(claim: Claim) -> str:
    """The rule of `claim` in words, as it was before the run."""
    bound = f"{claim.bound:g}"
    how = "value, which is exact," if claim.exact else f"95% interval over {claim.resampled}s"
    where = {"greater": f"above {bound}", "less": f"below {bound}", "within": f"between -{bound} and {bound}"}[claim.side]
    other = {
        "greater": f"wholly below {min(0.0, claim.bound):g}",
        "less": f"wholly above {max(0.0, claim.bound):g}",
        "within": "wholly outside of that",
    }[claim.side]
    return f"reproduced if the {how} lies {where} and the controls hold; contradicted if {other}"


def judge(claim: Claim, effect: Interval, controls: Mapping[str, bool], failed_gates: Sequence[str] = ()) -> Judgement:
    """The verdict on measured effects.

    Args:
        claim: its side and bound.
        effect: of the claim.
        controls: whether each holds, by name.
        failed_gates: statements of the gates that failed.
    """
    if failed_gates:
        return Judgement("void", f"the gate failed: {'; '.join(failed_gates)}")
    smallest = _smallest(claim, effect)
    if lies(effect, claim.side, claim.bound):
        broken = [name for name, holds in controls.items() if not holds]
        if not broken:
            return Judgement("reproduced", "the interval lies beyond the bound and the controls hold")
        return Judgement("inconclusive", f"the effect is there, but not the control: {', '.join(broken)}", smallest)
    if refuted(effect, claim.side, claim.bound):
        return Judgement("contradicted", "the interval lies wholly on the other side")
    return Judgement("inconclusive", _why_open(claim, effect, smallest), smallest)


def _smallest(claim: Claim, effect: Interval) -> float | None:
    half = effect.half_width
    if half is None:
        return None
    if claim.side == "within":
        return half
    return claim.bound + half if claim.side == "greater" else claim.bound - half


def _why_open(claim: Claim, effect: Interval, smallest: float | None) -> str:
    if smallest is None:
        few = effect.n_units < 2
        return (
            "one seed says nothing about the spread" if few else "all seeds gave one value, which says nothing about the spread"
        )
    sided = claim.side != "within" and lies(effect, claim.side, 0.0)
    beside = "the effect has the claimed sign, but is not beyond the bound; " if sided else ""
    if claim.side == "within":
        return f"{beside}these seeds could have shown an effect to be within {smallest:.3g} at best"
    return f"{beside}the smallest effect that these seeds could have shown is {smallest:.3g}"
