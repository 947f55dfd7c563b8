"""What describes a task: the entries of the built-in table, and of a YAML task file that a user writes."""

from __future__ import annotations

import difflib
import hashlib
import json
import string
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import DEFINITIONS
from deltatune.core.yaml_files import read_yaml

Reader = Literal["tsv", "csv", "jsonl", "gym", "hub", "world"]

_FILES = {
    "tsv": ("train.tsv", "dev.tsv", "test.tsv"),
    "csv": ("train.csv", "dev.csv", "test.csv"),
    "jsonl": ("train.jsonl", "dev.jsonl", "test.jsonl"),
    "gym": ("_train.tsv", "_dev.tsv", "_test.tsv"),
    "hub": ("train", "validation", "test"),
    "world": ("train", "dev", "test"),
}


@dataclass(frozen=True)
class TaskConfig:
    """A task, before any file is read.

    Args:
        name: of the task.
        reader: format of the files. `tsv` (quotes are ordinary characters), `csv`, `jsonl` (one object a line), `gym` (text to
            text: input and accepted answers between tabs), `hub` (a data set of the library `datasets`, by name or as saved),
            `world` (no files: the task `name` of `deltatune.core.world`).
        metric: name of the metric that selects and reports.
        extra_metrics: metrics that are reported besides.
        text_metric: metric when a text-to-text model answers; None takes the counterpart of `metric`.
        folders: names of the task's folder under the data folder, the first that exists is taken.
        train: file of training examples; the split's name for `hub`, the end of the file's name for `gym`. None takes `train.tsv`
            and the like.
        dev: the same for development.
        test: the same for test.
        dev_is_test: the development part serves as test where no test labels exist (GLUE).
        texts: headers of the one or two text columns; for `jsonl` and `hub`, none means sentence1 and sentence2, else text, else
            the first two.
        text_positions: their positions from 0 in a file without header.
        label: header of the label column.
        label_position: its position in a file without header; -1 is the last.
        id: header of a column that names examples.
        header: whether the first line is a header; `auto` looks for the names of the columns in it.
        skip_short_rows: leave out rows with too few columns, and note how many, instead of refusing the file.
        labels: the labels in class order; None takes those of the files, sorted.
        regression: lowest and highest value of a task with real values (`[-.inf, .inf]` where there are none); None for classes.
        template: prompt with a mask, in the language of `deltatune.core.template`.
        label_words: word for each label; of a regression, for the low and the high end, in this order.
        first_sentence_limit: most tokens of each piece of a template that shows the first text.
        other_sentence_limit: the same for another text.
        text_name: name of the task as a text-to-text model reads it; None takes `name` with `-` for `/`.
        source_names: what stands before each text in a text-to-text input.
        text_input: that input written out, `{0}` and `{1}` standing for the texts; None takes ` [text_name] text`.
        answers: answer text for each label; a label without one is its own answer.
        prefix: of `gym`, which of several samples in one folder; None takes the first in sorted order.
        hub: of `hub`, name or folder of the data set.
        hub_config: its configuration.
        revision: its revision.
    """

    name: str
    reader: Reader
    metric: str
    extra_metrics: tuple[str, ...] = ()
    text_metric: str | None = None
    folders: tuple[str, ...] = ()
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    dev_is_test: bool = False
    texts: tuple[str, ...] = ()
    text_positions: tuple[int, ...] = ()
    label: str = "label"
    label_position: int | None = None
    id: str | None = None
    header: bool | Literal["auto"] = "auto"
    skip_short_rows: bool = False
    labels: tuple[str, ...] | None = None
    regression: tuple[float, float] | None = None
    template: str | None = None
    label_words: Mapping[str, str] = field(default_factory=dict, hash=False)
    first_sentence_limit: int | None = None
    other_sentence_limit: int | None = None
    text_name: str | None = None
    source_names: tuple[str, ...] = ()
    text_input: str | None = None
    answers: Mapping[str, str] = field(default_factory=dict, hash=False)
    prefix: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        where = f"task {self.name}"
        if self.reader not in _FILES:
            raise DeltatuneError(f"{where}: unknown reader {self.reader!r}; known readers: {', '.join(_FILES)}")
        for metric in (self.metric, *self.extra_metrics, *([self.text_metric] if self.text_metric else [])):
            if metric not in DEFINITIONS:
                raise DeltatuneError(f"{where}: unknown metric {metric!r}{_near(metric, DEFINITIONS)}")
        if len(self.texts) > 2 or len(self.text_positions) > 2:
            raise DeltatuneError(f"{where}: an example has one or two texts, got columns {self.texts or self.text_positions}")
        if self.regression is not None and not self.regression[0] < self.regression[1]:
            raise DeltatuneError(f"{where}: regression must be [low, high] with low < high, got {list(self.regression)}")
        if self.labels is not None and (not self.labels or len(set(self.labels)) < len(self.labels)):
            raise DeltatuneError(f"{where}: labels must be different from each other and at least one, got {list(self.labels)}")
        if self.header not in (True, False, "auto"):
            raise DeltatuneError(f"{where}: header must be true, false or auto, got {self.header!r}")
        if self.text_input is not None and not _is_input(self.text_input):
            raise DeltatuneError(
                f"{where}: text_input takes {{0}} and {{1}} for the texts ({{{{ for a brace), got {self.text_input!r}"
            )
        if self.reader == "hub" and not self.hub:
            raise DeltatuneError(f"{where}: reader hub needs `hub`, the name or folder of the data set")

    @property
    def is_text(self) -> bool:
        """Whether the answers are texts rather than labels or values."""
        return self.reader == "gym"

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that differ for different configurations."""
        limits = ("first_sentence_limit", "other_sentence_limit")  # younger than digests on disk
        values = {name: value for name, value in asdict(self).items() if value is not None or name not in limits}
        return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode("utf-8")).hexdigest()

    def file(self, split: Literal["train", "dev", "test"]) -> str:
        """Name of the file of a split (see `train`)."""
        given = {"train": self.train, "dev": self.dev, "test": self.test}[split]
        return given or _FILES[self.reader][("train", "dev", "test").index(split)]


def _is_input(pattern: str) -> bool:
    """Whether a pattern shows text 0, perhaps text 1, and nothing else."""
    try:
        found = [tuple(field[1:]) for field in string.Formatter().parse(pattern) if field[1] is not None]
    except ValueError:
        return False
    return ("0", "", None) in found and set(found) <= {("0", "", None), ("1", "", None)}


def read_task_file(path: Path) -> TaskConfig:
    """The task that a YAML file describes; its keys are the fields of `TaskConfig`.

    Raises:
        DeltatuneError: not YAML, an unknown key (with the nearest known one), a missing key or a value of another type.
    """
    return task_config({"name": path.stem, **read_yaml(path)}, str(path))


def task_config(values: Mapping[str, Any], where: str) -> TaskConfig:
    """A configuration from plain values as YAML holds them; errors name `where`."""
    types = typing.get_type_hints(TaskConfig)
    for key in values:
        if key not in types:
            raise DeltatuneError(f"{where}: unknown key {key!r}{_near(str(key), types)}")
    missing = [key for key in ("reader", "metric") if key not in values]
    if missing:
        raise DeltatuneError(f"{where}: missing key {missing[0]!r}; every task has a reader and a metric")
    plain = {
        item.name: plain_value(values[item.name], types[item.name], f"{where}: {item.name}")
        for item in fields(TaskConfig)
        if item.name in values
    }
    try:
        return TaskConfig(**plain)
    except DeltatuneError as error:
        raise DeltatuneError(f"{where}: {error}") from error


def plain_value(value: Any, expected: Any, where: str) -> Any:
    """`value` as the field's type has it: lists as tuples, the keys and values of mappings as texts."""
    options = typing.get_args(expected) if type(None) in typing.get_args(expected) else (expected,)
    if value is None and type(None) in options:
        return None
    kind = options[0]
    origin = typing.get_origin(kind)
    if origin is tuple:
        inner, *others = typing.get_args(kind)
        items = value if isinstance(value, list) else [value]
        if others != [Ellipsis] and len(items) != 1 + len(others):
            raise DeltatuneError(f"{where} must be a list of {1 + len(others)} values, got {value!r}")
        return tuple(plain_value(item, inner, where) for item in items)
    if origin is Mapping:
        if isinstance(value, dict):
            return {plain_value(key, str, where): plain_value(item, str, where) for key, item in value.items()}
        raise DeltatuneError(f"{where} must be a mapping, got {value!r}")
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a label 0 or a folder 2020 that the user did not quote
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        quoted = "; put it in quotes if it is a text" if kind is str and isinstance(value, bool | float) else ""
        raise DeltatuneError(f"{where} must be of type {kind.__name__}, got {value!r}{quoted}")
    return value


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
