"""Results that are made once and kept in a folder, as runs are, by one process or by those of a launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.core.processes import Processes, join
from deltatune.core.run import RunFolder, digest_of, plain

PROGRAM = "deltatune-subspace"
Found = tuple[dict[str, Any], list[dict[str, Any]]]


@dataclass(frozen=True)
class Place:
    """Where the result of a command is kept.

    Args:
        out_dir: the folder.
        config_yaml: the command's options.
        overwrite: make again what is there.
        tag: a word of the user's for the records.
        device: where is computed; decides how the processes of a launch talk.
    """

    out_dir: Path
    config_yaml: str = ""
    overwrite: bool = False
    tag: str = ""
    device: str = "cpu"

    def once(self, command: str, settings: Mapping[str, Any], work: Callable[[RunFolder, Processes], Found]) -> dict[str, Any]:
        """What `run.json` says at the end; `work` gives numbers for it and records, unless they are there already.

        Of the processes of a launch all do the work and the first one writes.

        Args:
            command: its name, without the program's.
            settings: plain values that decide the outcome.
            work: called with the folder, held, and the processes of the launch.

        Raises:
            DeltatuneError: something else is in the folder.
        """
        identity = plain({"command": command, **settings})
        folder = RunFolder(self.out_dir, digest_of(identity))
        about = {"command": f"{PROGRAM} {command}", "config": identity, "tag": self.tag}
        processes = join(self.device)
        if not self.overwrite and (there := processes.lead(folder.finished)) is not None:
            return {**there, "already_finished": True}
        with processes.held(self.out_dir):
            if not processes.lead(lambda: folder.begin(about, self.config_yaml, self.overwrite)):
                return {**(folder.finished() or about), "already_finished": True}
            numbers, records = work(folder, processes)
            tagged = [{**record, "tag": self.tag} for record in records]
            processes.lead(lambda: folder.finish({**about, **numbers}, tagged))
            return {**about, **numbers}
