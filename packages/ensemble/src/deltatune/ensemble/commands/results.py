"""Results that are computed once and kept in a folder, as runs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.files import held
from deltatune.core.run import RunFolder, digest_of
from deltatune.core.tune_config import TaskChoice
from deltatune.ensemble.heads import HeadOf

PROGRAM = "deltatune-ensemble"
Work = Callable[[], tuple[dict[str, Any], list[dict[str, Any]]]]


def data(
    data_dir: Path | None = None,
    max_length: int = 256,
    shots: int | None = None,
    sample_seed: int = 0,
    max_train: int | None = None,
    max_dev: int | None = None,
    max_test: int | None = None,
    model: str | None = None,
    device: Device = "auto",
    head: HeadOf = "auto",
    other_base: bool = False,
) -> None:
    """The options of commands that show sources the examples of targets.

    Args:
        data_dir: root of task folders, or the folder that holds the tasks' files.
        max_length: longest input in tokens.
        shots: few-shot sample: this many training examples of each class, and as many others for development.
        sample_seed: seed of that draw.
        max_train: use the first N training examples.
        max_dev: use the first N dev examples.
        max_test: use the first N test examples.
        model: where the sources' base is now, if not where their runs found it; needed if all are adapters of PEFT.
        device: where to compute.
        head: whose task head answers for a target, where the form has one: source, each source's own, which must know the labels;
            probe, one fitted for each source to the target's training examples; auto, the first if it can be had.
        other_base: allow sources that were tuned on a base with another digest.
    """


def choice_of(task: str, options: Mapping[str, Any]) -> TaskChoice:
    """The examples of a target."""
    names = ("data_dir", "max_length", "max_train", "max_dev", "max_test", "shots", "sample_seed")
    return TaskChoice(task, **{name: options[name] for name in names if options.get(name) is not None})


@dataclass(frozen=True)
class Kept:
    """Where a result is kept.

    Args:
        out_dir: the folder.
        config_yaml: the command's options.
        overwrite: compute again what is there.
        tag: a word of the user's for the records.
    """

    out_dir: Path
    config_yaml: str
    overwrite: bool = False
    tag: str = ""

    def once(self, command: str, settings: Mapping[str, Any], work: Work) -> dict[str, Any]:
        """What `run.json` says at the end; `work` gives numbers for it and records, and is called if nothing is there yet.

        Raises:
            DeltatuneError: something else is in the folder.
        """
        folder = RunFolder(self.out_dir, digest_of({"command": command, **settings}))
        about = {"command": f"{PROGRAM} {command}", "config": dict(settings), "tag": self.tag}
        with held(self.out_dir):
            if not folder.begin(about, self.config_yaml, self.overwrite):
                output(error=True).print(f"{self.out_dir} is finished already; --overwrite does it again", soft_wrap=True)
                return folder.finished() or about
            numbers, records = work()
            folder.finish({**about, **numbers}, [{**record, "tag": self.tag} for record in records])
            return {**about, **numbers}
