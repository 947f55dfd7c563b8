"""From the rows of a public data set to examples, as a recipe says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import numpy as np

from deltatune.core.data.config import TaskConfig
from deltatune.core.data.recipe import DERIVATIONS, Recipe
from deltatune.core.data.sources import Row
from deltatune.core.errors import DeltatuneError

SEED = 42
"""Of the shuffles that belong to a recipe: the choices of sciq, the rows held out of a training split."""


@dataclass(frozen=True)
class Converted:
    """An example.

    Args:
        texts: one or two texts.
        answers: accepted answers; of a built-in task its label alone.
    """

    texts: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The examples of a split, and how many rows were left out because they have no label or lack what the recipe needs."""

    examples: tuple[Converted, ...]
    left_out: int = 0


def convert(rows: Iterable[tuple[str, Row]], recipe: Recipe, task: TaskConfig | None, class_names: Sequence[str] = ()) -> Part:
    """The examples of one split.

    Args:
        rows: with the place of each.
        recipe: how to read them.
        task: the built-in task, whose labels the answers must be.
        class_names: names of the classes whose numbers the column of answers holds.

    Raises:
        DeltatuneError: a missing column, or a value that is not what the recipe expects.
    """
    generator = np.random.RandomState(SEED)
    examples: list[Converted] = []
    left_out = 0
    for place, given in rows:
        row = given | {name: given[other] for name, other in recipe.aliases.items() if name not in given and other in given}
        for column in recipe.columns:
            if column not in row:
                raise DeltatuneError(f"{place}: no column {column!r}; recipe {recipe.name} needs {', '.join(recipe.columns)}")
        full = row if recipe.derive is None else {**row, **_derived(recipe.derive, row, generator, place)}
        answers = _answers(full, recipe, task, class_names, place)
        if not answers or any(not _text(_at(full, path, place), place).strip() for path in recipe.skip_empty):
            left_out += 1
            continue
        if recipe.texts:
            texts = tuple(_line(_text(_at(full, path, place), place), recipe) for path in recipe.texts)
        else:
            texts = (_line(_input(full, recipe, place), recipe),)
        examples.append(Converted(texts, tuple(_line(answer, recipe) for answer in answers)))
    return Part(tuple(examples), left_out)


def _input(row: Row, recipe: Recipe, place: str) -> str:
    values = {"choices": "".join(f" ({_letter(i)}) {choice}" for i, choice in enumerate(_choices(row, recipe, place)))}
    parts: list[str] = []
    for before, name, _, _ in Formatter().parse(recipe.input):
        parts.append(before)
        if name is not None:
            chosen = name == "choices" and recipe.choices
            parts.append(values["choices"] if chosen else _text(_at(row, name, place), place))
    return "".join(parts)


def _answers(row: Row, recipe: Recipe, task: TaskConfig | None, class_names: Sequence[str], place: str) -> tuple[str, ...]:
    """The accepted answers; none where the row has no label."""
    value = _at(row, recipe.answer, place)
    values = value if isinstance(value, list) else [value]
    values = [item for item in values if not (item is None or item == "" or (item == -1 and not isinstance(item, float)))]
    if recipe.answer_by != "text" and values:
        return (_chosen(values[0], row, recipe, place),)
    if task is not None and task.regression is not None:
        return tuple(_score(item, place) for item in values[:1])
    found = [_named(item, recipe, task, class_names, place) for item in values]
    return tuple(found if recipe.all_answers else found[:1])


def _chosen(value: Any, row: Row, recipe: Recipe, place: str) -> str:
    """The text of the choice that `value` names."""
    choices = _choices(row, recipe, place)
    written = str(value).strip()
    if recipe.answer_by == "key":
        keys = [str(key) for key in _list(_at(row, str(recipe.keys), place), place)]
    elif recipe.answer_by == "letter":
        keys = [_letter(i) for i in range(len(choices))]
    else:
        first = int(recipe.answer_by == "number")
        keys = [str(i + first) for i in range(len(choices))]
    if written not in keys[: len(choices)]:
        raise DeltatuneError(f"{place}: answer {written!r} is none of the choices {', '.join(keys)}")
    return choices[keys.index(written)]


def _named(value: Any, recipe: Recipe, task: TaskConfig | None, class_names: Sequence[str], place: str) -> str:
    """The answer text, or the label of a built-in task, for one value."""
    named = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(class_names)
    written = str(value).lower() if isinstance(value, bool) else class_names[value] if named else _text(value, place)
    table = dict(recipe.answers)
    if task is not None:
        table = {answer: label for label, answer in task.answers.items()} | table
    for key in (written, written.lower(), str(value)):
        if key in table:
            return table[key]
    known = tuple(task.labels or ()) if task is not None else tuple(recipe.answers.values())
    if known and written not in known:
        raise DeltatuneError(f"{place}: unknown label {written!r}; known: {', '.join(dict.fromkeys((*table, *known)))}")
    return written


def _score(value: Any, place: str) -> str:
    try:
        return f"{float(value):.3f}"
    except (TypeError, ValueError) as error:
        raise DeltatuneError(f"{place}: score {value!r} is not a number") from error


def _choices(row: Row, recipe: Recipe, place: str) -> list[str]:
    found: list[str] = []
    for path in recipe.choices:
        value = _at(row, path, place)
        found += [_text(item, place) for item in (value if isinstance(value, list) else [value])]
    return found


def _at(row: Row, path: str, place: str) -> Any:
    """The value at `column` or `column.part`; of a list of objects the list of their parts."""
    value: Any = row
    for part in path.split("."):
        if isinstance(value, list) and all(isinstance(item, dict) and part in item for item in value):
            value = [item[part] for item in value]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise DeltatuneError(f"{place}: no {path!r} in the row; its columns: {', '.join(row)}")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise DeltatuneError(f"{place}: expected a list, got {str(value)[:60]!r}")
    return value


def _text(value: Any, place: str) -> str:
    if isinstance(value, list):
        return " ".join(_text(item, place) for item in value)
    if not isinstance(value, str | int | float):
        raise DeltatuneError(f"{place}: expected a text, got {str(value)[:60]!r}")
    return str(value)


def _line(text: str, recipe: Recipe) -> str:
    """`text` without what ends a line or a field."""
    return " ".join(text.split()) if recipe.tidy else re.sub("[\t\n\r]", " ", text)


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _supporting_paragraphs(row: Row, generator: np.random.RandomState, place: str) -> Row:
    titles = set(_list(_at(row, "supporting_facts.title", place), place))
    paragraphs = zip(_at(row, "context.title", place), _at(row, "context.sentences", place), strict=True)
    return {"paragraphs": "".join("".join(sentences) for title, sentences in paragraphs if title in titles)}


def _shuffled_choices(row: Row, generator: np.random.RandomState, place: str) -> Row:
    choices = [str(row[name]) for name in ("correct_answer", "distractor1", "distractor2", "distractor3")]
    generator.shuffle(choices)
    return {"shuffled": choices}


def _choices_in_question(row: Row, generator: np.random.RandomState, place: str) -> Row:
    choices = re.split(r"\([A-Z]\)", str(row["question"]))[1:]
    number = str(row["answer_index"])
    if number not in map(str, range(len(choices))):
        raise DeltatuneError(f"{place}: answer_index {number} is none of the {len(choices)} choices in the question")
    return {"chosen": choices[int(number)].strip()}


def _bracketed_mask(row: Row, generator: np.random.RandomState, place: str) -> Row:
    return {"masked": str(row["sentence"]).replace("<mask>", "[MASK]")}


def _derived(name: str, row: Row, generator: np.random.RandomState, place: str) -> Row:
    return _FUNCTIONS[name](row, generator, place)


_FUNCTIONS: dict[str, Callable[[Row, np.random.RandomState, str], Row]] = dict(
    zip(DERIVATIONS, (_supporting_paragraphs, _shuffled_choices, _choices_in_question, _bracketed_mask), strict=True)
)


def shuffled(examples: Sequence[Converted]) -> Iterator[Converted]:
    """The examples in the order of the shuffle that a recipe's shares are taken from."""
    order = list(range(len(examples)))
    np.random.RandomState(SEED).shuffle(order)
    return (examples[i] for i in order)
