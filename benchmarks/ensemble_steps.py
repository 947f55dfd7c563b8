"""Lists of commands of `deltatune-ensemble`, each done once, several at a time: printed as they could be typed, resumable."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltatune.core.pool import run_jobs
from deltatune.ensemble import cli

PROGRAM = "deltatune-ensemble"


def left_of(todo: Sequence[list[Any]]) -> list[list[Any]]:
    """The commands that have not finished: their folder, the last word, says so; that of `tune-all` says it for all its runs."""
    return [words for words in todo if not all(_finished(path) for path in _folders(words))]


def _folders(words: list[Any]) -> list[Path]:
    if words[0] != "tune-all":
        return [Path(words[-1])]
    tasks = str(words[words.index("--tasks") + 1]).strip("[]").split(", ")
    return [Path(words[-1]) / Path(task).stem for task in tasks]


def _finished(folder: Path) -> bool:
    file = folder / "run.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("status") == "finished"


def run_stage(name: str, todo: Sequence[list[Any]], workers: int) -> None:
    """Do the commands that are left, in any order; one that was interrupted goes on.

    Args:
        name: of the stage, for what is printed.
        todo: commands; the last word of each is its folder.
        workers: commands at a time, each in a process with its share of the cores.

    Raises:
        SystemExit: a command failed; with what it said.
    """
    began, left, done = time.perf_counter(), left_of(todo), 0

    def report(words: list[Any], error: str | None) -> None:
        nonlocal done
        done += 1
        minutes = (time.perf_counter() - began) / 60
        print(f"[{name} {done}/{len(left)}, {minutes:.1f} min] {PROGRAM}", *words, flush=True)
        if error is None or error:
            sys.exit(f"{error}\nstopped: {'its process died' if error is None else 'that command failed'}; run the same again")

    if len(left) == 1:  # with all cores, and workers of its own where it has them
        report(left[0], carry_out(left[0]))
    else:
        run_jobs(carry_out, left, min(workers, max(1, len(left))), report)


def carry_out(words: list[Any]) -> str:
    """Do a command; what it said if it failed, else nothing."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main([str(word) for word in words])
    return "" if code == 0 else f"{said.getvalue()}ended with {code}"
