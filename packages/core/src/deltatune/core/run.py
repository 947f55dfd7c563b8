"""A run on disk.

- `config.yaml`: the command's options; `--config` reruns it.
- `run.json`: what was run: command, versions, seeds, digests, device, time, status.
- `records.jsonl`: one line for each measurement.
- `delta/`: the tuned deltas.
- `snapshots/N/`: the same after N updates, addressed as RUN@N.
- `state/`: what an interrupted run goes on from; removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held, read_json, read_text, remove_scratch, write_json, write_text

_PACKAGES = ("deltatune-core", "torch", "transformers", "accelerate", "safetensors")


def digest_of(value: Any) -> str:
    """sha256 of `value` as canonical JSON, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Paths as text with forward slashes, tuples as lists: what JSON gives back."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Args:
        path: where it is.
        digest: identity of the configuration, without what cannot change the outcome.
    """

    path: Path
    digest: str

    @property
    def state(self) -> Path:
        """Where the state of an interrupted run is."""
        return self.path / "state"

    def finished(self) -> dict[str, Any] | None:
        """What `run.json` says if this very run is finished in the folder; else None."""
        if not (self.path / "run.json").exists():
            return None
        there: dict[str, Any] = read_json(self.path / "run.json")
        same = there.get("status") == "finished" and there.get("config_digest") == self.digest
        return there if same else None

    def begin(self, about: Mapping[str, Any], config_yaml: str, overwrite: bool = False) -> bool:
        """Claim the folder; returns False if this very run is finished in it already.

        Args:
            about: written to `run.json`.
            config_yaml: written to `config.yaml`.
            overwrite: throw away whatever run is there.

        Raises:
            DeltatuneError: another run, or something that is no run, is in the folder.
        """
        if overwrite and (self.path / "run.json").exists():
            write_json(self.path / "run.json", {"status": "discarded"})  # killed from here on, it is not taken for a run
        self.tidy()
        if (self.path / "run.json").exists():
            there = read_json(self.path / "run.json")
            if there.get("status") == "discarded":
                self._clear()
            elif there.get("config_digest") != self.digest:
                raise DeltatuneError(f"--out_dir {self.path} holds another run; choose another folder, or --overwrite it")
            elif there.get("status") == "finished":
                return False
        elif self.path.is_file() or (self.path.exists() and any(self.path.iterdir())):
            raise DeltatuneError(f"--out_dir {self.path} is not an empty folder and holds no run; choose another folder")
        write_json(self.path / "run.json", {**about, **self._constants(), "status": "running"})
        # The options of a run must not throw it away when they are given again.
        write_text(self.path / "config.yaml", re.sub(r"^overwrite: true$", "overwrite: false", config_yaml, flags=re.M))
        return True

    def finish(self, about: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
        """Write the records, mark the run as finished and remove its state."""
        file = self.path / "records.jsonl"
        with held(file, wait=True):
            # Snapshots may have been used while the run was under way.
            there = read_records(file) if file.exists() else []
            _write_records(file, [*records, *(record for record in there if record.get("kind") in ("evaluation", "prediction"))])
        write_json(self.path / "run.json", {**about, **self._constants(), "status": "finished"})
        shutil.rmtree(self.state, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what a killed process has left behind; the folder must be held."""
        remove_scratch(self.path, r"run\.json|config\.yaml|delta")
        remove_scratch(self.path / "snapshots", r"\d+")
        remove_scratch(self.state, r"state(-\d+-\d+-of-\d+)?\.pt")
        if self.finished() is not None:
            shutil.rmtree(self.state, ignore_errors=True)

    def _clear(self) -> None:
        """Remove everything but `run.json`."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "run.json":
                path.unlink()

    def _constants(self) -> dict[str, Any]:
        return {"config_digest": self.digest, "versions": versions(), "python": platform.python_version()}


def append_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a records file, as a whole or not at all; processes that do so at one time wait for each other."""
    with held(path, wait=True):
        _write_records(path, records, read_text(path) if path.exists() else "")


def _write_records(path: Path, records: Iterable[Mapping[str, Any]], before: str = "") -> None:
    remove_scratch(path.parent, re.escape(path.name))
    write_text(path, before + "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The measurements in `path`, a records file or a run.

    Raises:
        DeltatuneError: missing, or a line that is not JSON (with its number).
    """
    file = path / "records.jsonl" if path.is_dir() else path
    records = []
    for number, line in enumerate(read_text(file).removesuffix("\n").split("\n"), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DeltatuneError(f"{file} line {number}: not JSON ({error.msg})") from error
    return records


def versions() -> dict[str, str]:
    """Versions of the packages that a number can depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path, not installed
            found[name] = "unknown"
    return found
