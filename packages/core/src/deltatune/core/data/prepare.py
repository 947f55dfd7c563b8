"""Public data sets written as the files that the published programs read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deltatune.core.data.config import TaskConfig
from deltatune.core.data.convert import Converted, Part, convert, shuffled
from deltatune.core.data.fewshot import kshot, shuffled_orders
from deltatune.core.data.recipe import Layout, Recipe, find_recipe
from deltatune.core.data.sources import Source, open_source
from deltatune.core.data.task import source_text
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, replacing, write_json

HELD_OUT = 5
"""One in this many rows is held out of a training split where a data set has no other."""


@dataclass(frozen=True)
class PrepareConfig:
    """What to write.

    Args:
        task: a built-in name or a YAML recipe, see `find_recipe`.
        layout: `glue` (tab-separated, GLUE's columns), `gym` (input and answers between tabs) or `jsonl` (objects).
        source: where the data set is; None takes the recipe's name on the hub.
        revision: of a name on the hub.
        subset: of a name on the hub, its configuration; None takes the recipe's.
        k: of `gym`, draw a few-shot sample: k examples of each answer of a classification, else k in all, to train on and as
            many for development.
        seed: of the sample.
        test: of a sample, `published` for the test part of the full data set, `validation` for the whole validation split.
    """

    task: str
    layout: Layout
    source: str | None = None
    revision: str | None = None
    subset: str | None = None
    k: int | None = None
    seed: int = 42
    test: Literal["published", "validation"] = "published"

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise DeltatuneError(f"k must be at least 1, got {self.k}")
        if self.k is not None and self.layout != "gym":
            raise DeltatuneError(f"--k samples format gym, not {self.layout}; use `deltatune fewshot` on the whole data set")
        if self.k is None and self.test != "published":
            raise DeltatuneError("--test validation goes with a few-shot sample; give --k")


@dataclass(frozen=True)
class PreparedFile:
    """A file that was written: its number of examples, the rows left out of its split, and its sha256."""

    path: Path
    rows: int
    left_out: int
    sha256: str


@dataclass(frozen=True)
class _Parts:
    """The parts of a data set by the stem of the file each becomes, and what was decided about them."""

    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)


def prepare(config: PrepareConfig, out_dir: Path, versions: dict[str, str], overwrite: bool = False) -> list[PreparedFile]:
    """Write a task's files to `<out_dir>/<task folder>`, with `prepare.json` beside them; all of them or none.

    Other files of the folder stay, such as samples with other seeds.

    Args:
        config: what to write.
        out_dir: the folder of task folders.
        versions: of the packages, for `prepare.json`.
        overwrite: replace files that hold something else.

    Raises:
        DeltatuneError: no recipe, no such source, a column or split is missing, a value is not what the recipe expects, or a file
            is there and holds something else.
    """
    recipe, task = find_recipe(config.task, config.layout)
    name = config.source or recipe.hub
    if name is None:
        raise DeltatuneError(f"task {config.task}: no data set of the hub is known; give --source, a folder or a file")
    subset = config.subset or recipe.config
    source = open_source(name, subset, config.revision)
    found = _parts(config, recipe, task, source)
    folder, start, texts = _files(config, recipe, task, found.parts)
    target = out_dir / folder
    prepared = [
        PreparedFile(
            target / (start + file),
            len(found.parts[stem].examples),
            found.parts[stem].left_out,
            hashlib.sha256(text.encode()).hexdigest(),
        )
        for (stem, file), text in texts.items()
    ]
    contents = dict(zip((item.path.name for item in prepared), (text.encode("utf-8") for text in texts.values()), strict=True))
    _check_room(target, contents, overwrite)
    about = {
        "what": "prepared data set",
        "task": recipe.name,
        "format": config.layout,
        "source": {"name": source.name, "subset": None if Path(name).exists() else subset, "revision": config.revision},
        "sample": None if config.k is None else {"k": config.k, "seed": config.seed, "test": config.test},
        "notes": found.notes,
        "versions": versions,
    }
    _write(target, contents, about, prepared)
    return prepared


def _parts(config: PrepareConfig, recipe: Recipe, task: TaskConfig | None, source: Source) -> _Parts:
    names: Sequence[str] = source.class_names.get(recipe.answer.partition(".")[0], ()) if recipe.answer_by == "text" else ()

    def part(split: str | None) -> Part | None:
        found = None if split is None else source.find(split)
        converted = None if found is None else convert(source.rows(found), recipe, task, names)
        return converted if converted is not None and converted.examples else None

    train = part(recipe.splits["train"])
    if train is None:
        splits = ", ".join(source.splits)
        raise DeltatuneError(f"{source.name}: no split {recipe.splits['train']!r} with labelled rows; its splits: {splits}")
    dev, test = part(recipe.splits.get("dev")), part(recipe.splits.get("test"))
    if config.layout == "gym":
        return _gym_parts(config, recipe, train, dev, test)
    notes: list[str] = []
    if dev is None:
        train, dev = _hold_out(train, recipe)
        notes.append(f"no validation split: {len(dev.examples)} rows of train, drawn at random, are dev")
    parts = {"train": train, "dev": dev} | ({} if test is None else {"test": test})
    if test is None:
        notes.append("no labelled test split: the development examples serve as test")
    if config.layout == "glue":
        parts |= {stem: found for stem, split in recipe.extra.items() if (found := part(split)) is not None}
    return _Parts(parts, notes)


def _gym_parts(config: PrepareConfig, recipe: Recipe, train: Part, dev: Part | None, test: Part | None) -> _Parts:
    notes: list[str] = []
    if dev is None:
        train, dev = _hold_out(train, recipe)
        notes.append(f"no validation split: {len(dev.examples)} rows of train, drawn at random, are held out")
    validation = dev
    if test is None:
        dev, test = _divide(validation, recipe)
        notes.append("no labelled test split: the validation rows are divided into dev and test")
    if config.k is None:
        return _Parts({"train": train, "dev": dev, "test": test}, notes)
    return _Parts(
        {**_sample(config, config.k, recipe, train), "test": validation if config.test == "validation" else test}, notes
    )


def _sample(config: PrepareConfig, k: int, recipe: Recipe, train: Part) -> dict[str, Part]:
    """A few-shot sample of the training examples by the procedure of the NLP few-shot gym."""
    order = shuffled_orders(len(train.examples), [config.seed])[config.seed]
    classes = recipe.classes or bool(recipe.texts)
    labels = [example.answers[0] if classes else "" for example in train.examples]
    for label in dict.fromkeys(labels):
        if labels.count(label) < 2 * k:
            which = f"class {label!r} has" if classes else "there are"
            raise DeltatuneError(
                f"task {recipe.name}: {which} {labels.count(label)} training rows, {2 * k} are needed; lower --k"
            )
    drawn = kshot(labels, order, k)
    return {name: Part(tuple(train.examples[i] for i in rows)) for name, rows in zip(("train", "dev"), drawn, strict=True)}


def _hold_out(train: Part, recipe: Recipe) -> tuple[Part, Part]:
    """The training split without, and with only, the rows that are held out of it; at most one in `HELD_OUT`."""
    mixed = list(shuffled(train.examples))
    kept = len(mixed) * (HELD_OUT - 1) // HELD_OUT
    if recipe.hold_out is not None:
        kept = max(kept, len(mixed) - recipe.hold_out)
    if not 0 < kept < len(mixed):
        raise DeltatuneError(
            f"recipe {recipe.name}: {len(mixed)} training rows are too few to hold some out; give a validation split"
        )
    return Part(tuple(mixed[:kept]), train.left_out), Part(tuple(mixed[kept:]))


def _divide(validation: Part, recipe: Recipe) -> tuple[Part, Part]:
    """Development and test part: the first half and the rest, or the shares of the recipe."""
    examples = validation.examples
    if recipe.share is not None:
        mixed = tuple(shuffled(examples))
        size = int(recipe.share * len(mixed))
        test, dev = mixed[:size], mixed[size : 2 * size]
    else:
        middle = len(examples) // 2
        dev, test = examples[:middle], examples[middle:]
    if not dev or not test:
        raise DeltatuneError(f"recipe {recipe.name}: {len(examples)} validation rows are too few to divide into dev and test")
    return Part(dev, validation.left_out), Part(test)


def _files(
    config: PrepareConfig, recipe: Recipe, task: TaskConfig | None, parts: dict[str, Part]
) -> tuple[str, str, dict[tuple[str, str], str]]:
    """The folder, what all file names start with, and the text of each file by its part and name."""
    if config.layout == "gym":
        folder = recipe.name if task is None else (task.text_name or task.name.replace("/", "-"))
        start = f"{folder}_{config.k}_{config.seed}_" if config.k is not None else f"{folder}_"
        texts = {(stem, f"{stem}.tsv"): "".join(_gym_line(item, task) for item in part.examples) for stem, part in parts.items()}
        return folder, start, texts
    if task is None:  # `find_recipe` gives other layouts to built-in tasks alone
        raise DeltatuneError(f"task {recipe.name} has no {config.layout} layout; its format: gym")
    folder = task.folders[0] if task.folders else task.name
    if config.layout == "jsonl":
        texts = {
            (stem, f"{stem}.jsonl"): "".join(_json_line(item, task) for item in part.examples) for stem, part in parts.items()
        }
        return folder, "", texts
    texts = {}
    for stem, part in parts.items():
        name = {"train": task.file("train"), "dev": task.file("dev"), "test": task.file("test")}.get(stem, f"{stem}.tsv")
        header = "\t".join(recipe.header) + "\n" if recipe.header else ""
        texts[stem, name] = header + "".join(_glue_line(item, number, recipe) for number, item in enumerate(part.examples))
    return folder, "", texts


def _gym_line(example: Converted, task: TaskConfig | None) -> str:
    answers = example.answers
    if task is not None:
        answers = tuple(task.answers.get(answer, answer) for answer in answers)
    text = example.texts[0] if task is None else source_text(task, example.texts)
    return "\t".join((text, *answers)) + "\n"


def _json_line(example: Converted, task: TaskConfig) -> str:
    texts = (
        {"text": example.texts[0]}
        if len(example.texts) == 1
        else dict(zip(("sentence1", "sentence2"), example.texts, strict=True))
    )
    label: Any = example.answers[0] if task.regression is None else float(example.answers[0])
    return json.dumps({**texts, "label": label}, ensure_ascii=False) + "\n"


def _glue_line(example: Converted, number: int, recipe: Recipe) -> str:
    label = example.answers[0]
    values = {"row": str(number), "label": label, "mark": "*" if label == "0" else "", "text1": example.texts[0]}
    values["text2"] = example.texts[-1]
    return "\t".join(cell.format_map(values) for cell in recipe.glue) + "\n"


def _check_room(folder: Path, contents: dict[str, bytes], overwrite: bool) -> None:
    for name, data in contents.items():
        path = folder / name
        if path.exists() and not overwrite and not (path.is_file() and path.read_bytes() == data):
            raise DeltatuneError(f"{path} holds something else; choose another --out_dir, or --overwrite it")


def _write(folder: Path, contents: dict[str, bytes], about: dict[str, Any], prepared: Sequence[PreparedFile]) -> None:
    """Put the files into the folder, keeping the others that are there; as a whole or not at all."""
    record = folder / "prepare.json"
    before: Any = read_json(record) if record.is_file() else {}
    known: dict[str, Any] = before.get("files", {}) if isinstance(before, dict) else {}
    new = {item.path.name: {"rows": item.rows, "left_out": item.left_out, "sha256": item.sha256, **about} for item in prepared}
    with replacing(folder) as target:
        if folder.is_dir():
            shutil.copytree(folder, target)
        else:
            target.mkdir()
        for name, data in contents.items():
            (target / name).write_bytes(data)
        write_json(target / "prepare.json", {"what": about["what"], "files": {**known, **new}})
