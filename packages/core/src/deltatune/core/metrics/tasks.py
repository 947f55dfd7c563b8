"""Which text-to-text task is scored by which metric."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml


@cache
def scored_tasks() -> dict[str, str]:
    """Metric name by task name, for every task of the table."""
    tables = yaml.safe_load(files(__package__).joinpath("tasks.yaml").read_text(encoding="utf-8"))
    return {task: metric for table in tables.values() for metric, tasks in table.items() for task in tasks}


def metric_of_task(task: str) -> str | None:
    """The metric of text-to-text task `task` (`glue-rte`, `boolq`, ...); None for a task that the table does not list."""
    return scored_tasks().get(task)
