"""The command `deltatune-recyclable`."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.core.cli import CHOICES, Commands, Lazy, run
from deltatune.core.cli.reproduce import reproduce_of

_HERE = "deltatune.recyclable.commands"

COMMANDS: Commands = {
    "tune": Lazy("deltatune.core.cli.tune:tune", "tune a task from any checkpoint of a pre-training series"),
    "apply": Lazy(f"{_HERE}.applying:apply", "evaluate an old delta on a new base without training"),
    "interpolate": Lazy(f"{_HERE}.walking:interpolate", "evaluate the path between two tuned models"),
    "distill": Lazy(f"{_HERE}.tuning:distill", "tune on the new base with an old delta on the old base as teacher"),
    "init": Lazy(f"{_HERE}.tuning:init", "tune from an old delta as initialization"),
    "combine": Lazy(f"{_HERE}.tuning:combine", "distill from an old delta and start from it"),
    "distance": Lazy(f"{_HERE}.measuring:distance", "measure how far models or deltas are apart, in all and by layer group"),
    "similarity": Lazy(f"{_HERE}.measuring:similarity", "compare what two models compute, attention head by attention head"),
    "pretrain": Lazy("deltatune.core.cli.pretrain:pretrain", "upgrade a base over domains or over your own texts"),
    "project": Lazy(
        f"{_HERE}.projecting:project", "learn a projection of old weights onto new ones and apply it to another task"
    ),
    "sweep": Lazy(f"{_HERE}.sweeping:sweep", "search the weights and the temperature of distillation on dev"),
    "advise": Lazy(f"{_HERE}.advising:advise", "say what each old delta is worth on the new base, with the evidence"),
    "reproduce": reproduce_of("recyclable"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deltatune-recyclable` with the words of `argv`, or of the process; the exit code."""
    description = "Recyclable Tuning: what old deltas are worth on an upgraded base model."
    return run("deltatune-recyclable", COMMANDS, argv, description=description, choices=CHOICES)
