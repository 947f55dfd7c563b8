"""The command `deltatune-ensemble`."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.core.cli import CHOICES, Commands, Planned, run
from deltatune.core.cli.reproduce import reproduce_of

COMMANDS: Commands = {
    "tune-all": Planned("tune the source deltas of a list of tasks from one initial delta"),
    "test-all": Planned("evaluate every source on every target without tuning"),
    "weights": Planned("score the sources for a target and turn the scores into weights"),
    "merge": Planned("average deltas or models with given weights, reading one tensor at a time"),
    "start": Planned("write the merged delta as a checkpoint to start from"),
    "tune": Planned("tune a target from a start"),
    "test": Planned("evaluate a target"),
    "suggest": Planned("find the mixture of your deltas to start a new task from, with the evidence"),
    "reproduce": reproduce_of("ensemble"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deltatune-ensemble` with the words of `argv`, or of the process; the exit code."""
    description = "Parameter-efficient weight ensembling: from many deltas to the best start for a new task."
    return run("deltatune-ensemble", COMMANDS, argv, description=description, choices=CHOICES)
