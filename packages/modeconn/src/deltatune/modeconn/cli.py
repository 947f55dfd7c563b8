"""The command `deltatune-modeconn`."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.core.cli import CHOICES, Commands, Planned, run
from deltatune.core.cli.reproduce import reproduce_of

COMMANDS: Commands = {
    "tune": Planned("tune a task, on all or on one of two halves of its data, recording a data map"),
    "walk": Planned("evaluate the straight line between two tuned models or deltas"),
    "curve": Planned("find a curve of low loss between two tuned models or deltas"),
    "mix": Planned("learn how to mix two models by block, layer or weight"),
    "plane": Planned("evaluate the plane through three tuned models or deltas"),
    "cartography": {"combine": Planned("relate what is forgotten along a path to the data map")},
    "distance": Planned("measure how far tuned models or deltas are apart"),
    "reproduce": reproduce_of("modeconn"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deltatune-modeconn` with the words of `argv`, or of the process; the exit code."""
    description = "Mode connectivity: are two tuned models in one basin, and what lies on the path between them."
    return run("deltatune-modeconn", COMMANDS, argv, description=description, choices=CHOICES)
