"""What a search found, as a YAML task file that `--task` takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from deltatune.core.data import Task
from deltatune.core.data.config import TaskConfig
from deltatune.core.data.load import find_folder
from deltatune.core.files import write_text
from deltatune.core.tune_config import TaskChoice


def write_task(path: Path, task: Task, choice: TaskChoice, template: str, words: Mapping[str, str]) -> None:
    """The task asked by `template` and `words`; its files are found from the new file's folder, or by `--data_dir`."""
    values: dict[str, Any] = {"name": task.name}
    for item in fields(TaskConfig):
        value = getattr(task.config, item.name)
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if value != default:
            values[item.name] = _plain(value)
    given = Path(choice.task)
    base = choice.data_dir or (given.parent if given.suffix in (".yaml", ".yml") else None)
    if base is not None and task.config.reader not in ("world", "hub"):
        folder = find_folder(task.config, base, task.config.prefix)
        values["folders"] = [Path(os.path.relpath(folder, path.parent)).as_posix()]
    values |= {"template": template, "label_words": dict(words)}
    if task.labels:
        values["labels"] = list(task.labels)
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
