"""Tasks of the world written as files that `load_task`, and the published programs, read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import yaml

from deltatune.core.data.config import TaskConfig
from deltatune.core.data.task import Example, Task, as_text
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import replacing
from deltatune.core.world.names import PREFIX

Layout = Literal["glue", "gym", "jsonl"]

TASK_FILE = "task.yaml"


def export_task(task: Task, layout: Layout, out_dir: Path, overwrite: bool = False) -> Path:
    """Write `<out_dir>/<task>/` with a file for each split and `task.yaml`, which `load_task` takes; the folder's path.

    Args:
        task: of the world.
        layout: `glue` (a table with header), `gym` (input and answer between tabs) or `jsonl` (objects).
        out_dir: the folder of task folders.
        overwrite: replace a folder that holds something else.

    Raises:
        DeltatuneError: the folder holds something else.
    """
    folder = out_dir / task.name.removeprefix(PREFIX)
    files = {name: text.encode("utf-8") for name, text in _files(task, layout).items()}
    if folder.exists():
        there = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
        if there == files:
            return folder
        if not overwrite:
            raise DeltatuneError(f"{folder} holds something else; choose another --out_dir, or --overwrite it")
    with replacing(folder) as target:
        target.mkdir()
        for name, data in files.items():
            (target / name).write_bytes(data)
    return folder


def _files(task: Task, layout: Layout) -> dict[str, str]:
    config, name = task.config, task.name.removeprefix(PREFIX)
    splits = {"train": task.train, "dev": task.dev, "test": task.test}
    if layout == "gym":
        written = {f"{name}_{split}.tsv": _gym(task, rows) for split, rows in splits.items()}
        config = replace(
            config, reader="gym", metric=task.text_metric, extra_metrics=(), labels=None, regression=None, template=None
        )
        config = replace(config, label_words={}, answers={}, texts=(), text_input="{0}")
    elif layout == "glue":
        written = {f"{split}.tsv": _table(config, rows) for split, rows in splits.items()}
        config = replace(config, reader="tsv", id="index")
    else:
        written = {f"{split}.jsonl": _objects(config, rows) for split, rows in splits.items()}
        config = replace(config, reader="jsonl")
    return written | {TASK_FILE: _yaml(config)}


def _table(config: TaskConfig, examples: Sequence[Example]) -> str:
    rows = [("index", *config.texts, config.label)]
    rows += [(str(number), *example.texts, str(example.label)) for number, example in enumerate(examples)]
    return "".join("\t".join(row) + "\n" for row in rows)


def _objects(config: TaskConfig, examples: Sequence[Example]) -> str:
    rows = [{**dict(zip(config.texts, example.texts, strict=True)), config.label: example.label} for example in examples]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _gym(task: Task, examples: Sequence[Example]) -> str:
    rows = ((as_text(task, example)[0], str(task.config.answers.get(str(example.label), example.label))) for example in examples)
    return "".join("\t".join(row) + "\n" for row in rows)


def _yaml(config: TaskConfig) -> str:
    """The fields that differ from their defaults."""
    plain = TaskConfig(name=config.name, reader=config.reader, metric=config.metric)
    kept = {
        name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, dict) else value
        for name, value in asdict(config).items()
        if name in ("name", "reader", "metric") or value != getattr(plain, name)
    }
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
