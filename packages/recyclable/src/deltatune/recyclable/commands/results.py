"""Measurements of this program, kept as `deltatune.core.cli.results` keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from deltatune.core.cli import results
from deltatune.core.cli.results import Found, show_scores

__all__ = ["PROGRAM", "Found", "Kept", "show_scores"]

PROGRAM = "deltatune-recyclable"


@dataclass(frozen=True)
class Kept(results.Kept):
    """See `deltatune.core.cli.results.Kept`."""

    program: str = PROGRAM
