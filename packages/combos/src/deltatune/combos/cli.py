"""The command `deltatune-combos`."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.core.cli import CHOICES, Commands, Lazy, run
from deltatune.core.cli.reproduce import reproduce_of

_HERE = "deltatune.combos.commands"

COMMANDS: Commands = {
    "run": Lazy(f"{_HERE}.running:run", "tune and evaluate one combination"),
    "grid": Lazy(f"{_HERE}.gridding:grid", "run all combinations over rates, batch sizes and seeds"),
    "sequence": Lazy(f"{_HERE}.running:sequence", "tune one method after another, the earlier ones frozen"),
    "gather": Lazy(f"{_HERE}.gathering:gather", "select on dev and make the tables of a grid"),
    "template": {"show": Lazy(f"{_HERE}.showing:show", "show a template on real examples, tokens, mask and label words marked")},
    "embed": Lazy(f"{_HERE}.embedding:embed", "make sentence vectors of a task, for demonstrations that are like the query"),
    "search": {
        "labels": Lazy(f"{_HERE}.searching:labels", "find label words on the training examples, chosen on dev"),
        "templates": Lazy(f"{_HERE}.searching:templates", "find templates with a T5, chosen on dev"),
    },
    "vote": Lazy(f"{_HERE}.voting:vote", "combine the predictions of several templates or models"),
    "suggest": Lazy(f"{_HERE}.suggesting:suggest", "find the combination for your few examples, with the evidence"),
    "reproduce": reproduce_of("combos"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deltatune-combos` with the words of `argv`, or of the process; the exit code."""
    description = "Combinations and orders of prompt, bias and adapter tuning, few-shot and on full data."
    return run("deltatune-combos", COMMANDS, argv, description=description, choices=CHOICES)
