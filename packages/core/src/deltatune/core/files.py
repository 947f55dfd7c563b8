"""Writing that never leaves half a file, and reading whose errors are one line."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from deltatune.core.errors import DeltatuneError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the name of `path`, on any error it is removed.

    Works for a file and for a folder (create either at the yielded path). An existing folder is moved aside first, so that at
    every moment either the old or the new one carries the name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise DeltatuneError(f"cannot write {path}: {error.strerror}; choose another --out_dir") from error
    target = scratch / path.name
    try:
        yield target
        _put(target, path, scratch / "previous")
    except OSError as error:
        raise DeltatuneError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put(target: Path, path: Path, aside: Path) -> None:
    """Give `target` the name `path`; a folder there is moved aside and, should that fail half-way, moved back."""
    if not path.is_dir():
        target.replace(path)
        return
    path.replace(aside)
    try:
        target.replace(path)
    except OSError:
        aside.replace(path)
        raise


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the folder `path` against other processes, by a file `.<name>.lock` beside it that says who holds it.

    A lock whose process is gone, killed for instance, is taken over.

    Raises:
        DeltatuneError: a living process holds it.
    """
    lock, own = path.parent / f".{path.name}.lock", {"pid": os.getpid(), "started": psutil.Process().create_time()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if lock.exists() and (holder := _living(lock)) is not None:
            raise DeltatuneError(f"{path} is in use by process {holder}; wait for it, or choose another --out_dir")
        lock.write_text(json.dumps(own), encoding="utf-8")
    except OSError as error:
        raise DeltatuneError(f"cannot write {path}: {error.strerror}; choose another --out_dir") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _living(lock: Path) -> int | None:
    """The process that wrote `lock`, if it still runs; a number that the system has given to another process does not count."""
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        alive = psutil.Process(holder["pid"]).create_time() == holder["started"] and holder["pid"] != os.getpid()
        return int(holder["pid"]) if alive else None
    except (ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        return None


def write_text(path: Path, text: str) -> None:
    """Write `text` (utf-8, newlines as given) to `path` as a whole or not at all."""
    with replacing(path) as target:
        target.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """The text of `path`.

    Raises:
        DeltatuneError: the file is missing, unreadable or not utf-8 (with the offset of the first bad byte).
    """
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise DeltatuneError(f"no such file: {path}") from error
    except UnicodeDecodeError as error:
        raise DeltatuneError(f"{path} is not utf-8 at byte {error.start}; convert it first") from error
    except OSError as error:
        raise DeltatuneError(f"cannot read {path}: {error.strerror}") from error


def read_json(path: Path) -> Any:
    """The JSON value in `path`; errors as `read_text`, and one line where the text is not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DeltatuneError(f"{path} line {error.lineno}: not JSON ({error.msg})") from error
