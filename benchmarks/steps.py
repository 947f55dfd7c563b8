"""A list of commands, each done once, in one process: printed as they could be typed, resumable."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deltatune.core.files import write_text


def not_begun(todo: Sequence[list[Any]]) -> list[list[Any]]:
    """The commands whose folder, their last word, holds no run yet."""
    return [words for words in todo if not (Path(words[-1]) / "run.json").is_file()]


def run_steps(program: str, main: Callable[[list[str]], int], todo: Sequence[list[Any]]) -> None:
    """Do them in order; a command does nothing where it had finished.

    Args:
        program: its name, for what is printed.
        main: its entry, which returns the exit code.
        todo: commands; the last word of each is its folder.

    Raises:
        SystemExit: a command failed; with what it said.
    """
    began = time.perf_counter()
    for number, words in enumerate(todo, start=1):
        print(f"[{number}/{len(todo)}, {(time.perf_counter() - began) / 60:.1f} min] {program}", *words, flush=True)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = main([str(word) for word in words])
        if code != 0:
            sys.exit(f"{said.getvalue()}\nstopped: that command ended with {code}")


def publish(found: Sequence[dict[str, Any]], text: str, records: Path | None, table: Path | None) -> None:
    """Print the table `text`, and write it and the records `found` that it was made from to files, where files are given."""
    print(text)
    if table is not None:
        write_text(table, text)
    if records is not None:
        write_text(records, "".join(json.dumps(record) + "\n" for record in found))
