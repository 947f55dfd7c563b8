"""How a public data set becomes the files of a task: the recipes of `recipes.yaml`, and those a user writes."""

from __future__ import annotations

import difflib
import string
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from deltatune.core.data.config import TaskConfig, plain_value
from deltatune.core.data.names import builtin_task
from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import scored_tasks
from deltatune.core.yaml_files import read_yaml

Layout = Literal["glue", "gym", "jsonl"]
DERIVATIONS = ("supporting_paragraphs", "shuffled_choices", "choices_in_question", "bracketed_mask")
_BY = ("text", "index", "number", "letter", "key")
_WAYS_OUT = "give --task RECIPE.yaml with columns, input and answer (docs/data.md shows one)"


@dataclass(frozen=True)
class Recipe:
    """A data set and how its rows become examples.

    A path is the name of a column, or `column.part` for a part of a column of objects.

    Args:
        name: of the task.
        columns: names of the columns that every row must have.
        aliases: for a column, another name that it may have.
        input: the input text, with `{path}` for values (a list is joined by blanks), `{choices}` for ` (A) one (B) two`.
        texts: instead of `input`, paths of the one or two texts of a built-in task.
        answer: path of the answer or label.
        answer_by: what `answer` holds: the `text` itself, the `index` of a choice from 0, its `number` from 1, its `letter`, or
            its `key` among `keys`.
        answers: answer text (of a built-in task: label) for each value of `answer`.
        choices: paths of the choices, of lists or of single texts.
        keys: path of the list of the choices' keys.
        all_answers: keep every answer of a list instead of the first.
        classes: few-shot samples take k examples of each answer rather than k in all.
        splits: names of the splits `train`, `dev` and `test` in the data set; only `train` is needed.
        extra: of format glue, further files and their splits.
        share: the part of the dev split, after a shuffle, that is the test part, and the next that is the dev part.
        hold_out: rows of the training split that become the dev part where there is no dev split.
        tidy: replace each run of white space in inputs and answers by one blank.
        skip_empty: paths; rows where one is empty are left out.
        derive: makes further values for `input`, by the name of a function in `convert.py`.
        glue: of format glue, the cells of a line, with `{row}`, `{label}`, `{text1}`, `{text2}` and `{mark}` (`*` for label 0).
        header: of format glue, its header; none for a file without.
        hub: name of the data set on the hub; None where only files are known.
        config: its configuration there.
    """

    name: str
    columns: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    input: str = ""
    texts: tuple[str, ...] = ()
    answer: str = "label"
    answer_by: str = "text"
    answers: Mapping[str, str] = field(default_factory=dict, hash=False)
    choices: tuple[str, ...] = ()
    keys: str | None = None
    all_answers: bool = False
    classes: bool = False
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "dev": "validation"}, hash=False)
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)
    share: float | None = None
    hold_out: int | None = None
    tidy: bool = False
    skip_empty: tuple[str, ...] = ()
    derive: str | None = None
    glue: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    hub: str | None = None
    config: str | None = None

    def __post_init__(self) -> None:
        where = f"recipe {self.name}"
        if bool(self.input) == bool(self.texts):
            raise DeltatuneError(f"{where}: give either `input`, the text with {{column}} for values, or `texts`")
        if self.answer_by not in _BY:
            raise DeltatuneError(f"{where}: unknown answer_by {self.answer_by!r}; known: {', '.join(_BY)}")
        if (self.answer_by != "text" and not self.choices) or (self.answer_by == "key") != bool(self.keys):
            raise DeltatuneError(f"{where}: answer_by {self.answer_by} needs choices, and `keys` goes with answer_by key alone")
        if self.derive not in (None, *DERIVATIONS):
            raise DeltatuneError(f"{where}: unknown derive {self.derive!r}; known: {', '.join(DERIVATIONS)}")
        if "train" not in self.splits or not set(self.splits) <= {"train", "dev", "test"}:
            raise DeltatuneError(f"{where}: splits must name train, and may name dev and test, got {', '.join(self.splits)}")
        if self.share is not None and not 0 < self.share <= 0.5:
            raise DeltatuneError(f"{where}: share must be above 0 and at most 0.5, got {self.share}")
        for path in self.paths():
            if path.partition(".")[0] not in self.columns and self.derive is None:
                raise DeltatuneError(f"{where}: {path!r} is not of a column; columns: {', '.join(self.columns)}")

    def paths(self) -> tuple[str, ...]:
        """Every path that the recipe reads."""
        named = [
            name for _, name, _, _ in string.Formatter().parse(self.input) if name and not (name == "choices" and self.choices)
        ]
        return (*named, *self.texts, *self.choices, *self.skip_empty, self.answer, *([self.keys] if self.keys else []))


def find_recipe(task: str, layout: Layout) -> tuple[Recipe, TaskConfig | None]:
    """The recipe of a task, and the built-in task it belongs to.

    Args:
        task: a built-in name (`glue/rte`, `glue-rte`, `boolq`, `gym/boolq`), or the path of a YAML recipe.
        layout: that is to be written.

    Raises:
        DeltatuneError: no recipe is known, or the task does not have this layout.
    """
    if Path(task).suffix in (".yaml", ".yml"):
        path = Path(task)
        recipe = _recipe({"name": path.stem, **read_yaml(path)}, str(path))
        if recipe.texts or layout != "gym":
            raise DeltatuneError(f"{path}: a recipe of your own writes --format gym and has `input`, not `texts`")
        return recipe, None
    name = task.removeprefix("gym/")
    config = _builtin(name)
    if config is not None and not (task.startswith("gym/") and name in _table()["gym"]):
        recipe = _recipe({"name": config.name, **_table()["builtin"][config.name]}, f"recipe {config.name}")
        if layout == "glue" and not recipe.glue:
            raise DeltatuneError(f"task {task} has no glue layout; its formats: gym, jsonl")
        return recipe, config
    if name not in _table()["gym"]:
        raise DeltatuneError(_unknown(name))
    if layout != "gym":
        raise DeltatuneError(f"task {task} has no {layout} layout; its format: gym")
    return _recipe({"name": name, **_table()["gym"][name]}, f"recipe {name}"), None


def published_source(task: str) -> dict[str, str]:
    """Where the examples of a built-in or text-to-text task were published: `hub`, `config`, `licence`, as far as known."""
    if Path(task).suffix in (".yaml", ".yml"):
        return {}
    try:
        recipe = find_recipe(task, "gym")[0]
    except DeltatuneError:
        return {}
    found = {"hub": recipe.hub, "config": recipe.config, "licence": _table()["licences"].get(recipe.name)}
    return {key: value for key, value in found.items() if value}


def recipe_names() -> dict[str, tuple[str, ...]]:
    """The tasks with a recipe, by section: `builtin` and `gym`."""
    return {section: tuple(_table()[section]) for section in ("builtin", "gym")}


def _builtin(name: str) -> TaskConfig | None:
    """The built-in task with this name, or whose text-to-text name it is."""
    for key in _table()["builtin"]:
        config = builtin_task(key)
        if name.lower() == key or (name in (config.text_name, *config.folders) and name not in _table()["gym"]):
            return config
    try:
        found = builtin_task(name)
    except DeltatuneError:
        return None
    return found if found.name in _table()["builtin"] else None


def _unknown(name: str) -> str:
    if name in scored_tasks():
        return f"task {name}: its text form is not published with the papers, so there is no recipe; {_WAYS_OUT}"
    known = [*_table()["builtin"], *_table()["gym"]]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"near ones: {', '.join(near)}; or " if near else ""
    return f"unknown task {name!r}; {hint}{_WAYS_OUT}"


def _recipe(values: Mapping[str, Any], where: str) -> Recipe:
    types = typing.get_type_hints(Recipe)
    for key in values:
        if key not in types:
            near = difflib.get_close_matches(str(key), types, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(types)}"
            raise DeltatuneError(f"{where}: unknown key {key!r}; {hint}")
    if "columns" not in values:
        raise DeltatuneError(f"{where}: missing key 'columns', the names of the columns that every row has")
    plain = {
        item.name: plain_value(values[item.name], types[item.name], f"{where}: {item.name}")
        for item in fields(Recipe)
        if item.name in values
    }
    return Recipe(**plain)


@cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = yaml.safe_load(files(__package__).joinpath("recipes.yaml").read_text(encoding="utf-8"))
    return table
