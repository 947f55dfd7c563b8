"""The command `deltatune`."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.core.cli.runner import Commands, Lazy, Planned, SavedConfig, run

__all__ = ["CHOICES", "COMMANDS", "Commands", "Lazy", "Planned", "SavedConfig", "main", "run"]

# Config base classes, as `module:Class`, of which an option of any program of the family takes a subclass by name.
CHOICES: tuple[str, ...] = ("deltatune.core.delta:DeltaConfig",)

COMMANDS: Commands = {
    "tune": Lazy("deltatune.core.cli.tune:tune", "tune deltas of a model on a task"),
    "grid": Lazy("deltatune.core.cli.grid:grid", "tune with every combination of some settings, over seeds"),
    "evaluate": Lazy("deltatune.core.cli.scoring:evaluate", "score a run on a split of its task"),
    "predict": Lazy("deltatune.core.cli.scoring:predict", "predict the examples of a JSON-lines file"),
    "merge": Lazy("deltatune.core.cli.algebra:merge", "add a delta to its base and write an ordinary model folder"),
    "distance": Lazy("deltatune.core.cli.algebra:distance", "measure how far two deltas or models are apart"),
    "export": Lazy("deltatune.core.cli.exchange:export", "write a delta in the layout of PEFT"),
    "import": Lazy("deltatune.core.cli.exchange:import_", "read an adapter in the layout of PEFT"),
    "prepare": Lazy("deltatune.core.cli.prepare:prepare", "write public data sets in the published layouts"),
    "fewshot": Lazy("deltatune.core.cli.fewshot:fewshot", "draw the published few-shot samples"),
    "pretrain": Lazy("deltatune.core.cli.pretrain:pretrain", "go on with the pre-training of a model on texts, or begin it"),
    "world": {
        "list": Lazy("deltatune.core.cli.world:list_", "list the tasks of the built-in world"),
        "show": Lazy("deltatune.core.cli.world:show", "print examples of one of them", first="task"),
        "export": Lazy("deltatune.core.cli.world:export", "write them as files"),
        "models": Lazy("deltatune.core.cli.world:models", "list its pre-trained models"),
        "rebuild": Lazy("deltatune.core.cli.world:rebuild", "make them again and compare"),
    },
    "report": Lazy("deltatune.core.cli.report:report", "make the report of a reproduce again from its claims.json"),
    "reproduce": Lazy("deltatune.core.cli.reproduce:reproduce", "check the claims of the core and of every installed paper"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deltatune` with the words of `argv`, or of the process; the exit code."""
    description = "Deltas of pre-trained language models: tune, evaluate, exchange and compute with them."
    return run("deltatune", COMMANDS, argv, description=description, choices=CHOICES)
