"""Which evaluation of a run is kept, and when a run has gone on long enough without a better one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class Selection:
    """Follows the scores of one run; greater is better.

    The first score that is a number is an improvement, be it negative; NaN never is. Patience counts evaluations in a
    row that did not improve.

    Args:
        ties: which of equal best scores is kept, the first or the last; a tie that is kept resets the patience.
        patience: evaluations without improvement after which `stop` holds; None never stops.
        best_step: update of the best evaluation so far; None before the first number.
        best_score: its score.
        failures: evaluations since the last improvement.
    """

    ties: Literal["first", "last"] = "first"
    patience: int | None = None
    best_step: int | None = None
    best_score: float | None = None
    failures: int = 0

    def observe(self, step: int, score: float) -> bool:
        """Take in the score after update `step`; True if it is the best so far and the weights are worth keeping."""
        better = not math.isnan(score) and (
            self.best_score is None or score > self.best_score or (score == self.best_score and self.ties == "last")
        )
        if better:
            self.best_step, self.best_score, self.failures = step, score, 0
        else:
            self.failures += 1
        return better

    @property
    def stop(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.failures >= self.patience
