"""Results kept by the digest of their settings: whatever was computed once is found again, by this run or the next."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, replacing, write_json
from deltatune.core.run import digest_of, plain, versions

_POLL = 0.2  # seconds


class Store:
    """A folder of results.

    Several processes may ask for one result at a time: the first makes it, the others wait for it. A result appears as a whole
    or not at all, so that an interrupted process leaves nothing behind that is taken for one.

    Args:
        root: the folder; created when the first result is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def digest(self, config: Mapping[str, Any]) -> str:
        """The name under which the result of `config` is kept; another version of a package has another."""
        return digest_of({"config": plain(dict(config)), "versions": versions()})

    def peek(self, config: Mapping[str, Any]) -> Any | None:
        """The value of `config` if there is one."""
        file = self.root / f"{self.digest(config)}.json"
        return read_json(file)["value"] if file.exists() else None

    def get(self, config: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The value of `config`, from `make` if there is none yet.

        Args:
            config: everything that decides the value, as plain values.
            make: returns something that JSON can hold; lists come back for tuples, the first time as well.

        Raises:
            DeltatuneError: the folder cannot be written, or what is there is damaged.
        """
        file = self.root / f"{self.digest(config)}.json"
        with self._alone(file):
            if not file.exists():
                write_json(file, {"config": plain(dict(config)), "value": make()})
        return read_json(file)["value"]

    def folder(self, config: Mapping[str, Any], make: Callable[[Path], Any]) -> Path:
        """The folder of `config`; `make` writes it, at the path that it is given, if there is none yet.

        Raises:
            DeltatuneError: the folder cannot be written.
        """
        path = self.root / self.digest(config)
        with self._alone(path):
            if not path.exists():
                with replacing(path) as target:
                    target.mkdir()
                    make(target)
        return path

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Hold `path` against the other processes, unless it is there already."""
        if path.exists():
            yield
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeltatuneError(f"cannot write {self.root}: {error.strerror}; choose another --out_dir") from error
        lock = self.root / f"{path.name}.lock"
        while not _take(lock):
            time.sleep(_POLL)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _take(lock: Path) -> bool:
    """Whether this process now holds `lock`; one whose process is gone is removed, and is free at the next call."""
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        if not _living(lock):
            lock.unlink(missing_ok=True)
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"pid": os.getpid(), "started": psutil.Process().create_time()}, file)
    return True


def _living(lock: Path) -> bool:
    try:
        age = time.time() - lock.stat().st_mtime
        holder = json.loads(lock.read_text(encoding="utf-8"))
        return bool(psutil.Process(holder["pid"]).create_time() == holder["started"])
    except ValueError:  # just created, and not written yet; or its process died in between
        return age < 10 * _POLL
    except FileNotFoundError:
        return False
    except psutil.NoSuchProcess:
        return False
