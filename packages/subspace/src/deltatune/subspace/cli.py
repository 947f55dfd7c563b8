"""The command `deltatune-subspace`."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.core.cli import CHOICES, Commands, Lazy, run
from deltatune.core.cli.reproduce import reproduce_of

_HERE = "deltatune.subspace.commands"

COMMANDS: Commands = {
    "make-init": Lazy(f"{_HERE}.originals:make_init", "store the initial deltas that all solutions start from"),
    "train-delta": Lazy(f"{_HERE}.originals:train_delta", "tune the original solutions of a list of tasks"),
    "approximate": Lazy(f"{_HERE}.approximating:approximate", "learn the subspace from the solutions of one task or of many"),
    "hypernetwork": Lazy(f"{_HERE}.hypernetworks:hypernetwork", "learn decoders on a task instead, with no solutions"),
    "add": Lazy(f"{_HERE}.adding:add", "add source tasks to a trained subspace without training it"),
    "optimize": Lazy(f"{_HERE}.optimizing:optimize", "solve tasks by tuning only their coordinates in the subspace"),
    "transfer": Lazy(f"{_HERE}.optimizing:transfer", "decode a solution found through one delta into the others"),
    "landscape": Lazy(f"{_HERE}.surveying:landscape", "evaluate the triangle of the three points and planes of the subspace"),
    "report": Lazy(f"{_HERE}.surveying:report", "make the tables of relative performance with intervals"),
    "reproduce": reproduce_of("subspace"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deltatune-subspace` with the words of `argv`, or of the process; the exit code."""
    description = "Unified optimization subspace: one low-dimensional space in which adapter, LoRA and prefix solve tasks."
    return run("deltatune-subspace", COMMANDS, argv, description=description, choices=CHOICES)
