"""Writing that never leaves half a file, and reading whose errors are one line."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
