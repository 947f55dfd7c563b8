"""Writing that never leaves half a file, and reading whose errors are one line."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError

from deltatune.core.errors import DeltatuneError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the name of `path`, on any error it is removed.

    Works for a file and for a folder (create either at the yielded path). A file is replaced in one step. An existing folder
    is moved aside first, and back if the new one cannot take its name. A file never takes the place of a folder. Files of
    safetensors get the mode that the umask gives, as every other file has it.

    Raises:
        DeltatuneError: it cannot be written, on a full disk for instance; what was there before is left as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise DeltatuneError(f"cannot write {path}: {error.strerror}; choose another --out_dir") from error
    target, probe = scratch / path.name, scratch / "mode"
    try:
        probe.touch()
        yield target
        _as_umask(target, stat.S_IMODE(probe.stat().st_mode))
        _put(target, path, scratch / "previous")
    except OSError as error:
        raise _unwritten(path, error.strerror or str(error), error.errno in _NO_SPACE) from error
    except SafetensorError as error:
        if not (found := re.fullmatch(r"Error while serializing: I/O error: (.*) \(os error (\d+)\)", str(error))):
            raise
        raise _unwritten(path, found[1], int(found[2]) in _NO_SPACE) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _as_umask(target: Path, mode: int) -> None:
    """Give tensors `mode`: their library writes with 0600 whatever the umask, which shuts others out of a shared folder."""
    for file in [target, *target.rglob("*.safetensors")]:
        if file.suffix == ".safetensors" and file.is_file() and not file.is_symlink():
            file.chmod(mode)


def _unwritten(path: Path, reason: str, no_space: bool) -> DeltatuneError:
    way_out = "free some space, or " if no_space else ""
    return DeltatuneError(f"cannot write {path}: {reason}; nothing was changed; {way_out}choose another --out_dir")


def _put(target: Path, path: Path, aside: Path) -> None:
    """Give `target` the name `path`; a folder there is moved aside and, should that fail half-way, moved back."""
    if not path.is_dir():
        target.replace(path)
        return
    if not target.is_dir():
        raise DeltatuneError(f"cannot write {path}: it is a folder; nothing was changed; name a file")
    path.replace(aside)
    try:
        target.replace(path)
    except OSError:
        aside.replace(path)
        raise


@contextmanager
def held(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the file or folder `path` against other processes, by a lock on a file `.<name>.lock` beside it.

    The lock is one of the operating system: it has one owner at a time and ends with its process, however that ends. So
    no lock is ever stale, and no two processes can both take over from one that was killed. The file says who holds it.

    Args:
        path: what is held; it need not exist.
        wait: until it is free.

    Raises:
        DeltatuneError: another process holds it (unless `wait`), or the lock cannot be written.
    """
    lock = path.parent / f".{path.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _take(lock, wait)
    except OSError as error:
        raise DeltatuneError(f"cannot write {path}: {error.strerror}; choose another --out_dir") from error
    if file is None:
        raise DeltatuneError(f"{path} is in use by {_holder(lock)}; wait for it, or choose another --out_dir")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is let go: whoever has opened this file then sees that its name is gone
        os.close(file)


def _take(lock: Path, wait: bool) -> int | None:
    """The descriptor of the locked file, which now says that this process has it; None if another has it."""
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(file, lock):
                own = {"pid": os.getpid(), "started": psutil.Process().create_time()}
                os.ftruncate(file, 0)
                os.write(file, json.dumps(own).encode("ascii"))
                return file
            os.close(file)  # its last owner has removed it meanwhile
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _holder(lock: Path) -> str:
    try:
        said = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {int(said['pid'])}, started {datetime.fromtimestamp(said['started']):%Y-%m-%d %H:%M:%S}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # it is just beginning or ending
        return "another process"


def remove_scratch(folder: Path, names: str) -> None:
    """Remove what writers that were killed have left of files in `folder` whose names match the expression `names`.

    Only for files that no other process may be writing now.
    """
    left = re.compile(rf"\.({names})\.[a-z0-9_]{{8}}")
    for path in folder.iterdir() if folder.is_dir() else ():
        if left.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def require_writable(path: Path) -> None:
    """Require that a file can take the name `path`, before what is to stand in it is computed; leaves nothing behind.

    Raises:
        DeltatuneError: as `replacing`.
    """
    try:
        if path.is_dir():
            raise DeltatuneError(f"cannot write {path}: it is a folder; nothing was changed; name a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=folder)).rmdir()
    except OSError as error:
        raise DeltatuneError(f"cannot write {path}: {error.strerror}; nothing was changed; name another file") from error


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
