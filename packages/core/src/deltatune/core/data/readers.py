"""Files of a task, read into examples; every error names the file, the line and the value.

A tab, comma or JSON file may begin with a byte-order mark and end its lines with CR LF.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from deltatune.core.data.config import TaskConfig
from deltatune.core.data.task import Example
from deltatune.core.errors import DeltatuneError


class Record(NamedTuple):
    """A row before its label is understood: `place` names it in errors, `id` among examples."""

    place: str
    texts: tuple[str, ...]
    label: Any
    id: str
    answers: tuple[str, ...] = ()


class Columns(NamedTuple):
    """Positions of the columns of a table; `label` is None where the table has no labels; `width` counts all columns."""

    texts: tuple[int, ...]
    label: int | None
    id: int | None
    width: int
    header: bool


class Split(NamedTuple):
    """The examples of one file, and what was noted; `labelled` tells whether they have labels."""

    examples: tuple[Example, ...]
    notes: tuple[str, ...]
    labelled: bool


def read_split(path: Path, config: TaskConfig, *, limit: int | None = None, labels_required: bool = True) -> Split:
    """The examples of one file, at most the first `limit`.

    Args:
        path: of the file.
        config: says how to read it; its reader is any but `hub` and `world`.
        limit: most examples.
        labels_required: refuse examples without label; else a file without any is returned as not labelled.

    Raises:
        DeltatuneError: the file is missing, empty or not utf-8, a row has too few or too many columns, or its label is not what
            the task has.
    """
    notes: list[str] = []
    records = READERS[config.reader](path, config, notes)
    return split_of(records, config, str(path), limit=limit, labels_required=labels_required, notes=notes)


def split_of(
    records: Iterator[Record], config: TaskConfig, where: str, *, limit: int | None, labels_required: bool, notes: list[str]
) -> Split:
    """The examples of `records`; see `read_split`."""
    examples: list[Example] = []
    missing: list[str] = []
    for record in islice(records, limit):
        label = None if config.is_text else _label(record, config)
        if label is None and not record.answers:
            missing.append(record.place)
        examples.append(Example(record.texts, label, record.answers, record.id))
    if not examples:
        raise DeltatuneError(f"{where} holds no examples; add some")
    if missing and (labels_required or len(missing) < len(examples)):
        raise DeltatuneError(f"{missing[0]}: no label; remove the row or give it one")
    return Split(tuple(examples), tuple(notes), not missing)


def read_lines(path: Path) -> list[str]:
    """The lines of a file without their ends; the byte-order mark is dropped.

    Raises:
        DeltatuneError: missing, unreadable, empty, or not utf-8 (with the line).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DeltatuneError(f"no such file: {path}") from error
    except OSError as error:
        raise DeltatuneError(f"cannot read {path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DeltatuneError(f"{path} line {line}: byte {data[error.start]:#04x} is not utf-8; convert the file first") from error
    # Only line feeds end a line: texts hold other characters that `splitlines` would take for ends.
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n")
    if not text.strip():
        raise DeltatuneError(f"{path} is empty; add examples")
    return [line.removesuffix("\r") for line in lines]


def split_gym_line(line: str) -> list[str]:
    """Input and answers of a text-to-text line: the line is stripped at both ends, its fields are not."""
    return line.strip().split("\t")


def locate(first: Sequence[str], config: TaskConfig, where: str) -> Columns:
    """Where the columns of a table are, from its first row.

    Raises:
        DeltatuneError: a text column is not in the header, or the table has neither header nor configured positions.
    """
    named = (*config.texts, config.label)
    header = any(name in first for name in named) if config.header == "auto" else config.header
    if header:
        for name in config.texts:
            if name not in first:
                raise DeltatuneError(f"{where} line 1: no column {name!r} in the header; columns: {', '.join(first)}")
        texts = tuple(first.index(name) for name in config.texts)
        label = first.index(config.label) if config.label in first else None
        own = first.index(config.id) if config.id in first else None
        return Columns(texts, label, own, len(first), True)
    if not config.text_positions or config.label_position is None:
        raise DeltatuneError(
            f"{where} line 1: none of the columns {', '.join(named)} in {', '.join(first)!r}; "
            "add a header, or set text_positions and label_position"
        )
    positions = (*config.text_positions, config.label_position)
    if max(positions) >= len(first):
        raise DeltatuneError(
            f"{where} line 1: {_columns(first)}, but column {max(positions) + 1} is needed; correct the positions or the file"
        )
    return Columns(config.text_positions, config.label_position % len(first), None, len(first), False)


def _table(rows: Iterator[tuple[int, list[str]]], path: Path, config: TaskConfig, notes: list[str]) -> Iterator[Record]:
    """Records of numbered rows, the first of which may be a header."""
    first_line, first = next(rows)
    columns = locate(first, config, str(path))
    body = rows if columns.header else _chained(first_line, first, rows)
    short = 0
    for line, cells in body:
        if len(cells) != columns.width:
            if config.skip_short_rows and len(cells) < columns.width:
                short += 1
                continue
            raise DeltatuneError(
                f"{path} line {line}: {_columns(cells)}, expected {columns.width} as in line {first_line}, got {_shown(cells)}; "
                f"look for a {MARKS[config.reader]} too many or too few"
            )
        name = cells[columns.id] if columns.id is not None else str(line - 1)
        label = None if columns.label is None else cells[columns.label].strip()
        yield Record(f"{path} line {line}", tuple(cells[column] for column in columns.texts), label, f"{path.stem}-{name}")
    if short:
        notes.append(f"{path.name}: {short} rows with too few columns left out")


def _columns(cells: Sequence[str]) -> str:
    return f"{len(cells)} column{'s' * (len(cells) != 1)}"


def _shown(cells: Sequence[str]) -> str:
    return repr(" | ".join(cells)[:60])


def _chained(line: int, cells: list[str], rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield line, cells
    yield from rows


def _tsv(path: Path, config: TaskConfig, notes: list[str]) -> Iterator[Record]:
    return _table(((number, line.split("\t")) for number, line in enumerate(read_lines(path), 1)), path, config, notes)


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a comma-separated file, with the line each ends at."""
    reader = csv.reader(io.StringIO("\n".join(read_lines(path)), newline=""), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DeltatuneError(f"{path} line {reader.line_num}: {error}; check the quotes") from error


def _csv(path: Path, config: TaskConfig, notes: list[str]) -> Iterator[Record]:
    return _table(csv_rows(path), path, config, notes)


def _gym(path: Path, config: TaskConfig, notes: list[str]) -> Iterator[Record]:
    for number, line in enumerate(read_lines(path), 1):
        fields = split_gym_line(line)
        if len(fields) < 2:
            raise DeltatuneError(
                f"{path} line {number}: expected input and answer between tabs, got {line[:60]!r}; give it an answer"
            )
        yield Record(f"{path} line {number}", (fields[0],), None, f"{path.stem}-{number - 1}", tuple(fields[1:]))


def _jsonl(path: Path, config: TaskConfig, notes: list[str]) -> Iterator[Record]:
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DeltatuneError(f"{place}: not JSON ({error.msg}), {line[:60]!r}; write one object a line") from error
        if not isinstance(row, dict):
            raise DeltatuneError(f"{place}: expected a JSON object, got {line[:60]!r}; write one object a line")
        yield object_record(row, config, place, f"{path.stem}-{number - 1}")


def object_record(row: dict[str, Any], config: TaskConfig, place: str, name: str) -> Record:
    """The record of one object with named values.

    Raises:
        DeltatuneError: a text column is missing or not a text.
    """
    columns = config.texts or _text_columns(row, config)
    for column in columns:
        if not isinstance(row.get(column), str):
            raise DeltatuneError(f"{place}: column {column!r} must be a text, got {row.get(column)!r}; columns: {', '.join(row)}")
    own = name if config.id is None else f"{name.rpartition('-')[0]}-{row.get(config.id)}"
    return Record(place, tuple(row[column] for column in columns), row.get(config.label), own)


def _text_columns(row: dict[str, Any], config: TaskConfig) -> tuple[str, ...]:
    if "sentence1" in row and "sentence2" in row:
        return "sentence1", "sentence2"
    if "text" in row:
        return ("text",)
    return tuple(key for key in row if key not in (config.label, "metadata"))[:2]


def _label(record: Record, config: TaskConfig) -> str | float | None:
    """The label as `Example` has it; None where there is none (-1 in a data set with integers)."""
    value = record.label
    if value is None or (value == -1 and isinstance(value, int)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DeltatuneError(f"{record.place}: a label is a text or a number, got {value!r}; correct the row")
    if config.regression is not None:
        return _value(value, record.place, *config.regression)
    if isinstance(value, float):
        raise DeltatuneError(f"{record.place}: label {value!r} is a real number; set `regression: [low, high]` for the task")
    label = str(value)
    if not label or (config.labels is not None and label not in config.labels):
        known = f"; known labels: {', '.join(config.labels)}" if config.labels else "; give the row one"
        raise DeltatuneError(f"{record.place}: unknown label {label!r}{known}")
    return label


def _value(value: str | float, place: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high or math.isinf(number):
        raise DeltatuneError(f"{place}: label {value!r} is not a number from {low:g} to {high:g}; correct the row")
    return number


MARKS = {"tsv": "tab", "csv": "comma or quote"}
"""What stands between the columns of a table, by its reader."""

READERS: dict[str, Callable[[Path, TaskConfig, list[str]], Iterator[Record]]] = {
    "tsv": _tsv,
    "csv": _csv,
    "jsonl": _jsonl,
    "gym": _gym,
}
