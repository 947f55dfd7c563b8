"""Tasks: what a user's files hold, as labelled examples.

`load_task` reads a task by its built-in name (`glue/rte`, `gym/boolq`, ...; table in `builtin.yaml`) or from a YAML task file;
`as_text` writes an example for a text-to-text model; `fewshot.py` samples few-shot data by the published procedures.
"""

from __future__ import annotations

from deltatune.core.data.config import TaskConfig, read_task_file
from deltatune.core.data.fewshot import SEEDS, Sample, few_shots, kshot, sample_by_class, shuffled_orders
from deltatune.core.data.fewshot_write import Checksums, Draw, WrittenSample, verify_checksums, write_fewshot
from deltatune.core.data.load import load_task
from deltatune.core.data.names import builtin_task, short_name, task_names
from deltatune.core.data.recipe import published_source
from deltatune.core.data.task import Example, Half, Task, as_text, build_task, halved

__all__ = [
    "SEEDS",
    "Checksums",
    "Draw",
    "Example",
    "Half",
    "Sample",
    "Task",
    "TaskConfig",
    "WrittenSample",
    "as_text",
    "build_task",
    "builtin_task",
    "few_shots",
    "halved",
    "kshot",
    "load_task",
    "published_source",
    "read_task_file",
    "sample_by_class",
    "short_name",
    "shuffled_orders",
    "task_names",
    "verify_checksums",
    "write_fewshot",
]
