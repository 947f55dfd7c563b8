"""Scores of all sources on all targets, and files of them."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_text, write_text

Matrix = dict[str, dict[str, float]]
"""Target -> source -> score or weight. A source that is missing was not measured, or is the target's own."""


def published_text(matrix: Mapping[str, Mapping[str, float]]) -> str:
    """The published form: a line with the target, then `source,score` for each source, target after target."""
    lines = []
    for target, row in matrix.items():
        lines += [target, *(f"{source},{value!r}" for source, value in row.items())]
    return "".join(line + "\n" for line in lines)


def write_published(path: Path, matrix: Mapping[str, Mapping[str, float]]) -> None:
    """Write `published_text`, as a whole: published files grew with each run and were read by line number."""
    write_text(path, published_text(matrix))


def read_published(path: Path) -> Matrix:
    """A `result.tsv` of the published programs.

    Raises:
        DeltatuneError: a line that is neither, a pair twice (two runs in one file), or a target without a line of its own (the
            published GraNd over all tensors wrote a line for each source instead).
    """
    matrix: Matrix = {}
    row: dict[str, float] | None = None
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        place = f"{path} line {number}"
        name, comma, value = line.strip().rpartition(",")
        if not line.strip():
            continue
        if not comma:
            if row is not None and not row:
                raise DeltatuneError(f"{place}: target {list(matrix)[-1]} has no scores; the file is damaged")
            if value in matrix:
                raise DeltatuneError(
                    f"{place}: target {value} begins a second time; the file holds several runs, or the header of each source "
                    "in place of the target's (GraNd of the original): score again with `deltatune-ensemble weights`"
                )
            row = matrix.setdefault(value, {})
            continue
        if row is None:
            raise DeltatuneError(f"{place}: a score before any target; the file is damaged")
        if name in row:
            raise DeltatuneError(f"{place}: source {name} twice for one target; the file holds several runs, keep one")
        row[name] = _number(value, place)
    if row is not None and all(list(sources) == [target] for target, sources in matrix.items()) and len(matrix) > 1:
        raise DeltatuneError(f"{path}: each header is a source and none a target (GraNd of the original); score again")
    return matrix


def _number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DeltatuneError(f"{place}: '{text}' is no number") from error


def final_weight_text(matrix: Mapping[str, Mapping[str, float]]) -> str:
    """The published `final_weight.txt`: two lines for each target, its name and the list of weights without its own."""
    lines = (line for target, row in matrix.items() for line in (target, str(list(row.values()))))
    return "".join(line + "\n" for line in lines)


def read_final_weights(path: Path, sources: list[str]) -> Matrix:
    """A published `final_weight.txt`, its weights in the order of `sources` without the target.

    Raises:
        DeltatuneError: not such a file, or another number of weights.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    matrix: Matrix = {}
    if len(lines) % 2:
        raise DeltatuneError(f"{path}: {len(lines)} lines, and each target has two; the file is damaged")
    for target, text in zip(lines[::2], lines[1::2], strict=True):
        names = [source for source in sources if source != target]
        try:
            values = [float(value) for value in ast.literal_eval(text)]
        except (ValueError, SyntaxError, TypeError) as error:
            raise DeltatuneError(f"{path}: the line after {target} is no list of weights") from error
        if len(values) != len(names):
            raise DeltatuneError(
                f"{path}: {target} has {len(values)} weights for {len(names)} sources; give the sources of that run"
            )
        matrix[target] = dict(zip(names, values, strict=True))
    return matrix


def records(matrix: Mapping[str, Mapping[str, float]], **about: Any) -> Iterator[dict[str, Any]]:
    """One line for each cell: target, source, value and `about`."""
    for target, row in matrix.items():
        for source, value in row.items():
            yield {**about, "target": target, "source": source, "value": None if math.isnan(value) else value}
