"""Findings as executable claims: declared, run with several seeds, judged by one rule, and reported."""

from __future__ import annotations

from deltatune.core.claims.claim import CannotRunError, Claim, Control, Effects, Figure, Gate, Measured
from deltatune.core.claims.context import Context, SharedRun
from deltatune.core.claims.interval import Interval, interval
from deltatune.core.claims.store import Store
from deltatune.core.claims.verdict import VERDICTS, Judgement, judge

__all__ = [
    "VERDICTS",
    "CannotRunError",
    "Claim",
    "Context",
    "Control",
    "Effects",
    "Figure",
    "Gate",
    "Interval",
    "Judgement",
    "Measured",
    "SharedRun",
    "Store",
    "interval",
    "judge",
]  # fmt: skip
