"""The files few-shot samples are taken from, kept as text so that a sample repeats its source byte for byte."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deltatune.core.data.config import TaskConfig
from deltatune.core.data.readers import csv_rows, locate, read_lines
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_text


@dataclass(frozen=True)
class SourceTable:
    """A table's lines: `head` before the rows, each row with its line end, and each row's label (None: left out of samples)."""

    path: Path
    head: str
    rows: tuple[str, ...]
    labels: tuple[str | None, ...]

    def text(self, rows: Sequence[int]) -> str:
        """A file of the rows of these numbers."""
        return self.head + "".join(self.rows[row] for row in rows)


def read_source(path: Path, config: TaskConfig) -> SourceTable:
    """The rows of a tab- or comma-separated or JSON lines file.

    Raises:
        DeltatuneError: as `read_split`, and a label that the task does not have.
    """
    return read_json_rows(path, config) if config.reader == "jsonl" else read_table(path, config)


def read_table(path: Path, config: TaskConfig) -> SourceTable:
    """The lines of a tab- or comma-separated file; a missing end of the last line is added.

    Raises:
        DeltatuneError: as `read_split`, and a label that the task does not have.
    """
    lines = read_lines(path)
    if config.reader == "csv":
        cells = [row for _, row in csv_rows(path)]
        texts = [_csv_line(row) for row in cells]
    else:
        cells = [line.split("\t") for line in lines]
        texts = [line if line.endswith("\n") else line + "\n" for line in _with_ends(read_text(path))]
    columns = locate(cells[0], config, str(path))
    first = int(columns.header)
    if columns.label is None:
        raise DeltatuneError(f"{path} line 1: no column {config.label!r} in the header; samples need labels")
    labels: list[str | None] = []
    for number, row in enumerate(cells[first:], first + 1):
        if len(row) != columns.width:
            if not (config.skip_short_rows and len(row) < columns.width):
                raise DeltatuneError(f"{path} line {number}: {len(row)} columns, expected {columns.width}")
            labels.append(None)
        else:
            labels.append(_class(row[columns.label].strip(), config, f"{path} line {number}"))
    return SourceTable(path, "".join(texts[:first]), tuple(texts[first:]), tuple(labels))


def read_json_rows(path: Path, config: TaskConfig) -> SourceTable:
    """The objects of a JSON lines file, written without `metadata` and in ASCII alone, as in the published files.

    Raises:
        DeltatuneError: a line is not a JSON object with a label.
    """
    rows: list[str] = []
    labels: list[str] = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DeltatuneError(f"{path} line {number}: not JSON ({error.msg})") from error
        if not isinstance(row, dict) or row.get(config.label) is None:
            raise DeltatuneError(f"{path} line {number}: expected a JSON object with {config.label!r}, got {line[:60]!r}")
        rows.append(json.dumps({key: value for key, value in row.items() if key != "metadata"}) + "\n")
        labels.append(str(row[config.label]))
    return SourceTable(path, "", tuple(rows), tuple(labels))


def copied_tests(source: Path, config: TaskConfig) -> dict[str, str]:
    """Contents of the test files of a sample, by name: the original development files, or the original test file (csv, jsonl)."""
    if config.reader == "tsv":
        copies = {config.file("dev"): config.file("test")}
        if config.file("dev") == "dev_matched.tsv":
            copies["dev_mismatched.tsv"] = "test_mismatched.tsv"
        return {test: read_text(source / dev) for dev, test in copies.items() if (source / dev).exists()}
    path = source / config.file("test")
    if not path.exists():
        return {}
    if config.reader == "csv":
        return {path.name: "".join(_csv_line(row) for _, row in csv_rows(path))}
    return {path.name: read_text(path)}


def _with_ends(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends one."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _class(label: str, config: TaskConfig, place: str) -> str:
    if config.regression is not None:
        low, high = config.regression
        try:
            return "0" if float(label) < (low + high) / 2 else "1"
        except ValueError as error:
            raise DeltatuneError(f"{place}: label {label!r} is not a number") from error
    if config.labels is not None and label not in config.labels:
        raise DeltatuneError(f"{place}: unknown label {label!r}; known labels: {', '.join(config.labels)}")
    return label
