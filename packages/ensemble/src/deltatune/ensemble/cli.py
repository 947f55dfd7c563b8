"""The command `deltatune-ensemble`."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.core.cli import CHOICES, Commands, Lazy, run
from deltatune.core.cli.reproduce import reproduce_of

_HERE = "deltatune.ensemble.commands"

COMMANDS: Commands = {
    "tune-all": Lazy(f"{_HERE}.tuning:tune_all", "tune the source deltas of a list of tasks from one initial delta"),
    "test-all": Lazy(f"{_HERE}.testing:score_all", "evaluate every source on every target without tuning"),
    "weights": Lazy(f"{_HERE}.weighing:weights", "score the sources for targets and turn the scores into weights"),
    "merge": Lazy(f"{_HERE}.merging:merge", "average deltas or models with given weights, reading one tensor at a time"),
    "start": Lazy(f"{_HERE}.merging:start", "write the merged delta as a checkpoint to start from"),
    "tune": Lazy("deltatune.core.cli.tune:tune", "tune a target, from a start or afresh"),
    "grid": Lazy("deltatune.core.cli.grid:grid", "tune with every combination of some settings, over seeds"),
    "test": Lazy("deltatune.core.cli.scoring:evaluate", "evaluate a target"),
    "suggest": Lazy(f"{_HERE}.suggesting:suggest", "find the mixture of your deltas to start a new task from, with the evidence"),
    "reproduce": reproduce_of("ensemble"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deltatune-ensemble` with the words of `argv`, or of the process; the exit code."""
    description = "Parameter-efficient weight ensembling: from many deltas to the best start for a new task."
    return run("deltatune-ensemble", COMMANDS, argv, description=description, choices=CHOICES)
