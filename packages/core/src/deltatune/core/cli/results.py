"""Measurements that are made once and kept in a folder, as runs are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core.cli.output import output
from deltatune.core.cli.tune import row
from deltatune.core.files import held
from deltatune.core.run import RunFolder, digest_of

Found = tuple[dict[str, Any], list[dict[str, Any]]]


@dataclass(frozen=True)
class Kept:
    """Where a measurement is kept.

    Args:
        out_dir: the folder.
        config_yaml: the command's options.
        overwrite: measure again what is there.
        tag: a word of the user's for the records.
        program: whose commands they are.
    """

    out_dir: Path
    config_yaml: str
    overwrite: bool = False
    tag: str = ""
    program: str = "deltatune"

    def once(self, command: str, settings: Mapping[str, Any], work: Callable[[], Found]) -> dict[str, Any]:
        """What `run.json` says at the end; `work` gives numbers for it and records, and is called if nothing is there yet.

        Args:
            command: its name, without the program's.
            settings: plain values that decide the outcome.
            work: measures; what it writes goes into `out_dir`.

        Raises:
            DeltatuneError: something else is in the folder.
        """
        folder = RunFolder(self.out_dir, digest_of({"command": command, **settings}))
        about = {"command": f"{self.program} {command}", "config": dict(settings), "tag": self.tag}
        with held(self.out_dir):
            if not folder.begin(about, self.config_yaml, self.overwrite):
                output(error=True).print(f"{self.out_dir} is finished already; --overwrite does it again", soft_wrap=True)
                return folder.finished() or about
            numbers, records = work()
            folder.finish({**about, **numbers}, [{**record, "tag": self.tag} for record in records])
            return {**about, **numbers}


def show_scores(rows: Iterable[tuple[str, Mapping[str, Any]]], first: str = "split") -> None:
    """Print a table of scores."""
    table = Table(first, "metric", "value", "standard error", "loss", "examples")
    for name, numbers in rows:
        table.add_row(name, *row(dict(numbers)))
    output().print(table)
