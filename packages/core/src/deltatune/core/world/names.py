"""The names of the world's domains, kinds of task and tasks."""

from __future__ import annotations

import difflib

from deltatune.core.errors import DeltatuneError

DOMAINS = ("kitchen", "harbour", "clinic", "workshop")
"""In the order of the numbers at the end of the tasks' names."""

KINDS = ("sentiment", "topic", "aspect", "relation", "inference", "paraphrase", "acceptability", "similarity")

UNSTATED = ("aspect", "acceptability", "similarity")
"""Kinds whose answers no document of the corpus states."""

TASKS = tuple(f"{kind}-{number}" for kind in KINDS for number in range(len(DOMAINS)))

PREFIX = "world/"
"""What stands before the name of a task wherever other tasks can be named too."""


def kind_and_domain(name: str) -> tuple[str, str]:
    """The kind and the domain of a task, with or without `world/` before its name.

    Raises:
        DeltatuneError: there is no such task.
    """
    task = name.removeprefix(PREFIX)
    if task not in TASKS:
        near = difflib.get_close_matches(task, TASKS, n=3, cutoff=0.4) or TASKS[:3]
        raise DeltatuneError(f"unknown task {name!r} of the world; near ones: {', '.join(PREFIX + other for other in near)}")
    kind, _, number = task.rpartition("-")
    return kind, DOMAINS[int(number)]
