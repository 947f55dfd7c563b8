"""The command `deltatune-modeconn`."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.core.cli import CHOICES, Commands, Lazy, run
from deltatune.core.cli.reproduce import reproduce_of

_HERE = "deltatune.modeconn.commands"

COMMANDS: Commands = {
    "tune": Lazy(f"{_HERE}.mapping:tune", "tune a task, on all or on one of two halves of its data, recording a data map"),
    "grid": Lazy("deltatune.core.cli.grid:grid", "tune with every combination of some settings, over seeds"),
    "walk": Lazy(f"{_HERE}.walking:walk", "evaluate the straight line between two tuned models or deltas"),
    "curve": Lazy(f"{_HERE}.bending:curve_", "find a curve of low loss between two tuned models or deltas"),
    "mix": Lazy(f"{_HERE}.mixing:mix", "learn how to mix two models by block, layer or weight"),
    "plane": Lazy(f"{_HERE}.surface:plane", "evaluate the plane through three tuned models or deltas"),
    "cartography": {
        "record": Lazy(f"{_HERE}.mapping:record", "record how sure a run is of each training example"),
        "combine": Lazy(f"{_HERE}.mapping:combine", "relate what is forgotten along a path to the data map"),
    },
    "distance": Lazy("deltatune.core.cli.algebra:distance", "measure how far tuned models or deltas are apart"),
    "report": Lazy(f"{_HERE}.reporting:report", "put the paths of several pairs together"),
    "reproduce": reproduce_of("modeconn"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deltatune-modeconn` with the words of `argv`, or of the process; the exit code."""
    description = "Mode connectivity: are two tuned models in one basin, and what lies on the path between them."
    return run("deltatune-modeconn", COMMANDS, argv, description=description, choices=CHOICES)
