"""Examples, and a task with its examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from deltatune.core.data.config import TaskConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import definition_name

SENTINEL = "<extra_id_0>"
"""First text of every answer of the text-to-text papers: the first sentinel of T5's vocabulary."""


@dataclass(frozen=True)
class Example:
    """One example.

    Args:
        texts: one or two texts; exactly one of a text-to-text task.
        label: the label as in the file (integers in decimal), a value of a regression, None if there is none.
        answers: accepted answers of a text-to-text task.
        id: file and row, or file and the row's own name.
    """

    texts: tuple[str, ...]
    label: str | float | None
    answers: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class Task:
    """A task with its examples.

    Args:
        config: where they come from and how they are scored.
        labels: in class order; empty for a regression and for text to text.
        train: training examples.
        dev: development examples.
        test: test examples; empty where there are no labelled ones.
        digest: 64 hexadecimal digits that differ for different configurations or examples.
        notes: what a reader of the results should know about the data.
    """

    config: TaskConfig
    labels: tuple[str, ...]
    train: tuple[Example, ...] = field(repr=False)
    dev: tuple[Example, ...] = field(repr=False)
    test: tuple[Example, ...] = field(repr=False)
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.config.name

    @property
    def metric(self) -> str:
        """Name of the metric that selects and reports."""
        return self.config.metric

    @property
    def text_metric(self) -> str:
        """Name of the metric where a text-to-text model answers.

        Raises:
            DeltatuneError: the task's metric does not score texts, and its configuration names no other.
        """
        return self.config.text_metric or definition_name(self.config.metric, texts=True)

    @property
    def regression(self) -> tuple[float, float] | None:
        """Lowest and highest value; None for a task with classes or texts."""
        return self.config.regression

    @property
    def text_name(self) -> str:
        """Name of the task as a text-to-text model reads it."""
        return self.config.text_name or self.name.replace("/", "-")


def build_task(
    config: TaskConfig,
    train: Iterable[Example],
    dev: Iterable[Example],
    test: Iterable[Example],
    notes: Sequence[str] = (),
) -> Task:
    """A task from examples at hand.

    Labels that `config` does not list are those of all three parts, in code-point order, or in the order of the numbers where all
    are integers.

    Raises:
        DeltatuneError: no training examples, or an example with a label that `config.labels` lacks.
    """
    parts = tuple(train), tuple(dev), tuple(test)
    if not parts[0]:
        raise DeltatuneError(f"task {config.name}: no training examples")
    labels: tuple[str, ...] = ()
    found = list(notes)
    if not config.is_text and config.regression is None:
        sets = [{str(example.label) for example in part if example.label is not None} for part in parts]
        labels = config.labels or _in_order(set().union(*sets))
        found += _label_notes(config, labels, sets)
    return Task(config, labels, *parts, _digest(config, parts), tuple(found))


Half = Literal["first", "second"]


def halved(task: Task, half: Half) -> Task:
    """`task` with the first floor(n / 2) training examples, or the others; dev and test stay whole.

    Raises:
        DeltatuneError: fewer than two training examples.
    """
    middle = len(task.train) // 2
    if not middle:
        raise DeltatuneError(f"--half {half}: task {task.name} has one training example, which has no halves")
    train = task.train[:middle] if half == "first" else task.train[middle:]
    config = task.config if task.config.is_text or task.regression else replace(task.config, labels=task.labels)
    return build_task(config, train, task.dev, task.test, [*task.notes, f"the {half} half of the training examples"])


def as_text(task: Task, example: Example, *, lowercase: bool = False) -> tuple[str, tuple[str, ...]]:
    """An example as a text-to-text model reads and answers it, in the form of the text-to-text papers.

    Args:
        task: the example's task.
        example: of any kind; a label is written as its answer text, a value in decimal.
        lowercase: lower-case everything, the task's name included.

    Returns:
        ` [name] input`, or what `text_input` of the task says, and `<extra_id_0>answer` for each accepted answer (none without a
        label).
    """
    source = _input(task, example)
    answers = example.answers
    if not task.config.is_text and example.label is not None:
        answers = (task.config.answers.get(str(example.label), str(example.label)),)
    targets = tuple(SENTINEL + answer for answer in answers)
    return (source.lower(), tuple(target.lower() for target in targets)) if lowercase else (source, targets)


def _input(task: Task, example: Example) -> str:
    if task.config.text_input is None:
        return f" [{task.text_name}] {source_text(task.config, example.texts)}"
    try:
        return task.config.text_input.format(*example.texts)
    except IndexError as error:
        raise DeltatuneError(
            f"task {task.name}: text_input {task.config.text_input!r} shows two texts, and example {example.id} has one"
        ) from error


def source_text(config: TaskConfig, texts: Sequence[str]) -> str:
    """The texts of an example as one, each with its name where the task has names: `sentence 1: ... [SEP] sentence 2: ...`."""
    names = config.source_names or (("text1", "text2") if len(texts) == 2 else ())
    if not names:
        return texts[0]
    return " [SEP] ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))


def _in_order(labels: set[str]) -> tuple[str, ...]:
    numbers = all(label.isascii() and label.removeprefix("-").isdigit() for label in labels)
    return tuple(sorted(labels, key=int) if numbers else sorted(labels))


def _label_notes(config: TaskConfig, labels: tuple[str, ...], sets: Sequence[set[str]]) -> list[str]:
    train = sets[0]
    for name, part in zip(("train", "dev", "test"), sets, strict=True):
        unknown = sorted(part - set(labels))
        if unknown:
            raise DeltatuneError(f"task {config.name}: {name} has label {unknown[0]!r}; known labels: {', '.join(labels)}")
    unseen = sorted(set(labels) & (sets[1] | sets[2]) - train)
    return [f"labels without a training example: {', '.join(unseen)}"] if unseen else []


def _digest(config: TaskConfig, parts: Sequence[Sequence[Example]]) -> str:
    digest = hashlib.sha256(config.digest.encode("ascii"))
    for part in parts:
        for example in part:
            digest.update(json.dumps([example.texts, example.label, example.answers]).encode("utf-8"))
        digest.update(b"\n")
    return digest.hexdigest()
