"""The tasks that have a name."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from deltatune.core.data.config import TaskConfig, task_config
from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import metric_of_task, scored_tasks


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("builtin.yaml").read_text(encoding="utf-8"))
    return table


def task_names() -> tuple[str, ...]:
    """Every built-in name, aliases, the text-to-text tasks (`gym/...`) and those of the generated world included."""
    from deltatune.core import world  # it is made of this package's types

    return (
        *_table()["tasks"],
        *_table()["aliases"],
        *(f"gym/{task}" for task in sorted(scored_tasks())),
        *(f"world/{task}" for task in world.TASKS),
    )


def short_name(task: str) -> str:
    """A task as tables, figures and folders name it: of a YAML file its stem, and otherwise `task` itself."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task


def builtin_task(name: str) -> TaskConfig:
    """The built-in task `name`; letter case matters in `gym/...` alone.

    Raises:
        DeltatuneError: an unknown name, with the nearest known ones.
    """
    family, _, task = name.partition("/")
    if family.lower() == "gym" and task:
        return _gym(task)
    if family.lower() == "world" and task:
        from deltatune.core.world.tasks import task_config as world_task

        return world_task(name.lower())
    key = _table()["aliases"].get(name.lower(), name.lower())
    if key not in _table()["tasks"]:
        known = [*_table()["tasks"], *_table()["aliases"]]
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4) or known[:3]
        raise DeltatuneError(f"unknown task {name!r}; near ones: {', '.join(near)}; or give a YAML task file")
    values = _table()["tasks"][key]
    return task_config({"name": key, **_table()["families"][values["family"]], **_without_family(values)}, f"task {key}")


def _without_family(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "family"}


def _gym(task: str) -> TaskConfig:
    metric = metric_of_task(task)
    if metric is None:
        near = difflib.get_close_matches(task, scored_tasks(), n=3, cutoff=0.4)
        named = f" near ones: {', '.join(f'gym/{other}' for other in near)};" if near else ""
        raise DeltatuneError(
            f"no metric is known for text-to-text task {task!r};{named} or give a YAML task file with `reader: gym` and `metric`"
        )
    return TaskConfig(name=f"gym/{task}", reader="gym", metric=metric, folders=(task,), text_name=task)
