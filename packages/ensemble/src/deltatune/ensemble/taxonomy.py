"""Lists of tasks and their categories: the paper's, and a user's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from deltatune.core.errors import DeltatuneError
from deltatune.core.yaml_files import read_yaml

Taxonomy = dict[str, list[str]]
QA = "qa"


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("tasks.yaml").read_text(encoding="utf-8"))
    return table


def qa_categories() -> Taxonomy:
    """The paper's five categories of question answering; together its 32 tasks, in the order of its matrices."""
    return {name: list(tasks) for name, tasks in _table()["categories"].items()}


def qa_tasks() -> list[str]:
    """The paper's 32 tasks in order."""
    return [task for tasks in qa_categories().values() for task in tasks]


def extended_tasks() -> list[str]:
    """Those and the 19 that the original names beside them."""
    return [*qa_tasks(), *_table()["further"]]


def read_taxonomy(path: Path | None) -> Taxonomy:
    """Categories from a YAML or JSON file: a mapping from a name to a list of tasks; the paper's without a file.

    Raises:
        DeltatuneError: the file is something else, or a task is in two categories.
    """
    if path is None:
        return qa_categories()
    raw = read_yaml(path)
    if not isinstance(raw, dict) or not all(isinstance(tasks, list) for tasks in raw.values()):
        raise DeltatuneError(f"{path}: not a taxonomy; write `category: [task, task]`, a line for each category")
    seen: dict[str, str] = {}
    for name, tasks in raw.items():
        for task in map(str, tasks):
            if task in seen:
                raise DeltatuneError(f"{path}: task {task} is in the categories {seen[task]} and {name}; leave it in one")
            seen[task] = str(name)
    return {str(name): list(map(str, tasks)) for name, tasks in raw.items()}


def short(task: str) -> str:
    """A task's name as matrices and folders show it: `gym/boolq` is boolq, `some/where/my.yaml` is my."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task.rpartition("/")[2]


def named(tasks: Sequence[str]) -> dict[str, str]:
    """Short name -> task, in order; the word `qa` alone stands for the paper's 32 tasks.

    Raises:
        DeltatuneError: no task, or two of one short name.
    """
    given = [f"gym/{task}" for task in qa_tasks()] if list(tasks) == [QA] else list(tasks)
    found: dict[str, str] = {}
    for task in given:
        if short(task) in found:
            raise DeltatuneError(f"--tasks: {found[short(task)]} and {task} have one short name, {short(task)}; leave one out")
        found[short(task)] = task
    if not found:
        raise DeltatuneError("--tasks names no task; give such as '[gym/boolq, my.yaml]', or '[qa]' for the paper's 32")
    return found
