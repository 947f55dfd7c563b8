"""The texts of a user as documents: files, folders, data sets of the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deltatune.core.corpus import Document
from deltatune.core.errors import DeltatuneError

_SUFFIXES = (".txt", ".jsonl")
_LONGEST = 2**20  # characters of a line that are one document; what follows is the next, so that no file is read whole


@dataclass(frozen=True)
class Texts:
    """Documents of a .txt file (each line that is not empty is one), a .jsonl file, a folder of both, or the hub.

    Iterating reads them from the first to the last, line by line, as often as asked; a folder's files come in the order of their
    names, folders within it included.

    Args:
        source: file, folder or the name of a data set on the hub (its split train, streamed).
        column: key of the text in a line of a .jsonl file, and name of the hub's column.
        revision: of a data set on the hub.

    Raises:
        DeltatuneError: nothing there to read, or a line that is not what it should be (with its number).
    """

    source: str
    column: str = "text"
    revision: str | None = None

    def __post_init__(self) -> None:
        path = Path(self.source)
        if path.is_dir() and not self.files:
            raise DeltatuneError(f"--texts {self.source}: no {' or '.join(_SUFFIXES)} file in this folder")
        if path.is_file() and path.suffix not in _SUFFIXES:
            raise DeltatuneError(f"--texts {self.source}: unknown kind of file; give {' or '.join(_SUFFIXES)}")

    @cached_property
    def files(self) -> list[Path]:
        """The files read, in order; none for a data set of the hub."""
        path = Path(self.source)
        if path.is_file():
            return [path]
        found = (file for suffix in _SUFFIXES for file in path.rglob(f"*{suffix}")) if path.is_dir() else iter(())
        return sorted(found, key=lambda file: file.relative_to(path).as_posix())

    @cached_property
    def digest(self) -> str:
        """sha256 over names and contents of the files; of a data set of the hub over its name and revision, 64 digits."""
        total = hashlib.sha256()
        for file in self.files:
            total.update(f"{file.name}:{file.stat().st_size}:".encode())
            with file.open("rb") as stream:
                while part := stream.read(2**20):
                    total.update(part)
        if not self.files:
            total.update(json.dumps([self.source, self.column, self.revision]).encode("utf-8"))
        return total.hexdigest()

    def __iter__(self) -> Iterator[Document]:
        """The documents."""
        for file in self.files:
            yield from self._lines(file)
        if not self.files:
            yield from self._hub()

    def _lines(self, file: Path) -> Iterator[Document]:
        number = 0
        try:
            with file.open(encoding="utf-8") as stream:
                # A line of JSON is read whole: half of one is no text.
                while line := stream.readline() if file.suffix == ".jsonl" else stream.readline(_LONGEST):
                    number += 1
                    text = self._text(line, f"{file} line {number}") if file.suffix == ".jsonl" else line
                    if text.strip():
                        yield Document(text.strip())
        except UnicodeDecodeError as error:
            raise DeltatuneError(f"{file} is not utf-8 after line {number}; convert it first") from error

    def _text(self, line: str, where: str) -> str:
        if not line.strip():
            return ""
        row = None
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get(self.column), str):
            raise DeltatuneError(f"{where}: no JSON object with a text under {self.column!r}; name another --text_column")
        return str(row[self.column])

    def _hub(self) -> Iterator[Document]:
        from datasets import load_dataset

        try:
            rows: Any = load_dataset(self.source, split="train", streaming=True, revision=self.revision)
            for number, row in enumerate(rows):
                if not isinstance(row.get(self.column), str):
                    there = ", ".join(map(str, row))
                    raise DeltatuneError(f"--texts {self.source} row {number}: no text under {self.column!r}; columns: {there}")
                yield Document(row[self.column])
        except (OSError, ValueError) as error:
            if isinstance(error, DeltatuneError):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DeltatuneError(
                f"--texts {self.source}: no such file or folder, and not to be had from the hub ({reason})"
            ) from error
