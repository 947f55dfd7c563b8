"""Where the rows of a public data set come from: the hub, a folder that `save_to_disk` wrote, or csv, json and jsonl files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from logging import ERROR
from pathlib import Path
from typing import Any

from deltatune.core.data.readers import read_lines
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, read_text

Row = dict[str, Any]
_SUFFIXES = (".jsonl", ".json", ".csv")
_SAME = {"validation": ("dev", "valid"), "dev": ("validation", "valid")}


@dataclass(frozen=True)
class Source:
    """Rows by split.

    Args:
        name: of the data set, for messages and records.
        splits: for each split a function that yields its rows, each with the place it comes from.
        class_names: names of the classes of a column whose values are their numbers; by column.
    """

    name: str
    splits: dict[str, Callable[[], Iterator[tuple[str, Row]]]]
    class_names: dict[str, tuple[str, ...]]

    def find(self, split: str) -> str | None:
        """The name that `split` has here (`dev` and `valid` may stand for `validation`); None if there is no such split."""
        head, separator, tail = split.partition("_")
        names = (split, *(other + separator + tail for other in _SAME.get(head, ())))
        return next((name for name in names if name in self.splits), None)

    def rows(self, split: str) -> Iterator[tuple[str, Row]]:
        """The rows of a split that `find` found, with the place each comes from."""
        return self.splits[split]()


def open_source(source: str, config: str | None = None, revision: str | None = None) -> Source:
    """A data set by its name on the hub, or from a folder or file.

    Args:
        source: a name on the hub, a folder that `datasets` saved, a folder of `<split>.jsonl`, `.json` or `.csv` files, or one
            such file (the split train; a json file may hold an object of splits).
        config: of a name on the hub, the configuration.
        revision: of a name on the hub, the revision.

    Raises:
        DeltatuneError: nothing there, or what is there cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return Source(str(path), _file_splits(path, "train"), {})
    if path.suffix in _SUFFIXES or path.is_absolute() or source.startswith("."):
        raise DeltatuneError(f"no such file or folder: {source}")
    return _hub(source, lambda datasets: datasets.load_dataset(source, config, revision=revision))


def _hub(name: str, load: Callable[[Any], Any]) -> Source:
    # Seconds to import, and files do not need it.
    import datasets
    from huggingface_hub.utils import logging as hub

    level = hub.get_verbosity()
    hub.set_verbosity(ERROR)  # what it warns of is in the error below
    try:
        found = load(datasets)
    except Exception as error:  # the library raises whatever its many back ends raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeltatuneError(
            f"cannot load data set {name!r} ({reason}); give --source, a name of the hub, a folder or a file"
        ) from error
    finally:
        hub.set_verbosity(level)
    parts = {"train": found} if isinstance(found, datasets.Dataset) else dict(found)
    names = {
        column: tuple(feature.names)
        for part in parts.values()
        for column, feature in part.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }

    def rows_of(split: str) -> Callable[[], Iterator[tuple[str, Row]]]:
        return lambda: ((f"{name} {split} row {number}", dict(row)) for number, row in enumerate(parts[split]))

    return Source(name, {str(split): rows_of(split) for split in parts}, names)


def _folder(folder: Path) -> Source:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return _hub(str(folder), lambda datasets: datasets.load_from_disk(str(folder)))
    paths = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.name != "prepare.json")
    if not paths:
        raise DeltatuneError(f"{folder} holds no saved data set and no .jsonl, .json or .csv files; name a folder that does")
    splits: dict[str, Callable[[], Iterator[tuple[str, Row]]]] = {}
    for path in paths:
        if path.stem in splits:
            raise DeltatuneError(f"{folder} holds several files of split {path.stem}; keep one of them")
        splits |= _file_splits(path, path.stem)
    return Source(str(folder), splits, {})


def _file_splits(path: Path, split: str) -> dict[str, Callable[[], Iterator[tuple[str, Row]]]]:
    if path.suffix == ".csv":
        return {split: lambda: _csv(path)}
    if path.suffix == ".jsonl":
        return {split: lambda: _jsonl(path)}
    if path.suffix != ".json":
        raise DeltatuneError(f"{path}: unknown kind of file; give a .csv, .json or .jsonl file, or a folder")
    value = read_json(path)
    if isinstance(value, list):
        return {split: lambda: _objects(value, str(path))}
    if isinstance(value, dict) and value and all(isinstance(rows, list) for rows in value.values()):
        return {name: partial(_objects, rows, f"{path} {name}") for name, rows in value.items()}
    raise DeltatuneError(f"{path}: expected a list of objects, or an object with a list for each split")


def _objects(rows: Sequence[Any], where: str) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DeltatuneError(f"{where} row {number}: expected an object, got {str(row)[:60]!r}")
        yield f"{where} row {number}", row


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DeltatuneError(f"{path} line {number}: not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise DeltatuneError(f"{path} line {number}: expected a JSON object, got {line[:60]!r}")
        yield f"{path} line {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a comma-separated file with a header; its values are texts."""
    reader = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DeltatuneError(
                    f"{path} line {reader.line_num}: the header has {len(reader.fieldnames or ())} columns, this row not"
                )
            yield f"{path} line {reader.line_num}", dict(row)
    except csv.Error as error:
        raise DeltatuneError(f"{path} line {reader.line_num}: {error}; check the quotes") from error
