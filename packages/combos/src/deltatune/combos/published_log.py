"""The log of the published program: one dictionary a line, with the scores of a run and all its options."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deltatune.combos.gathering import Trial
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_text

Entry = Mapping[str, Any]

_METRIC = {"cola": "mcc", "mrpc": "f1", "qqp": "f1", "sts-b": "pearson", "mnli": "mnli/acc"}
_SECOND = {"mrpc/f1": "acc", "mrpc/acc": "f1", "qqp/f1": "acc", "qqp/acc": "f1", "sts-b/pearson": "spearmanr"}
_WITH_METRIC = {"mrpc": ("acc", "f1"), "qqp": ("acc", "f1"), "sts-b": ("pearson", "spearmanr")}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log file: dictionaries as Python writes them, read as literals and never run (D31).

    A value that is no literal, such as the device that the program wrote, is kept as its text.

    Raises:
        DeltatuneError: a line that is no dictionary, with its number.
    """
    entries = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(line.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise DeltatuneError(f"{path} line {number}: not a dictionary of plain values; take the line out") from error
    return entries


def _entry(line: str) -> dict[str, Any]:
    """One line; raises ValueError or SyntaxError where it is no dictionary with texts as keys."""
    found = ast.parse(line, mode="eval").body
    if not isinstance(found, ast.Dict) or None in found.keys:
        raise ValueError(line)
    return {str(ast.literal_eval(key or "")): _value(value) for key, value in zip(found.keys, found.values, strict=True)}


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def keys_of(task: str) -> dict[str, str]:
    """For a published task name, with the metric where it has two, the keys of its dev, test and train scores in an entry.

    Raises:
        DeltatuneError: no such name.
    """
    name, _, metric = task.partition("/")
    if task == "mnli-mm":  # chosen on the matched dev set, reported on the mismatched test set
        return {"dev": "mnli_dev_eval_mnli/acc", "test": "mnli-mm_test_eval_mnli-mm/acc", "train": "mnli_train_eval_mnli/acc"}
    if metric and metric not in _WITH_METRIC.get(name, ()):
        known = ", ".join(f"{task}/{one}" for task, metrics in _WITH_METRIC.items() for one in metrics)
        raise DeltatuneError(f"task {task}: no such metric in published logs; tasks with several metrics: {known}")
    metric = metric or _METRIC.get(name, "acc")
    return {split: f"{name}_{split}_eval_{metric}" for split in ("dev", "test", "train")}


def second_metric(task: str) -> str | None:
    """The task name with its other metric, such as mrpc/acc for mrpc/f1."""
    other = _SECOND.get(task)
    return None if other is None else f"{task.partition('/')[0]}/{other}"


def matching(entries: Iterable[Entry], condition: Entry) -> list[Entry]:
    """The entries in which every key of `condition` has its value, or one of a list of values.

    `task_name` may name a metric; `training_params` is a list of stages, so a list there is one value.
    """
    return [entry for entry in entries if all(_holds(entry, key, value) for key, value in condition.items())]


def _holds(entry: Entry, key: str, value: Any) -> bool:
    if key not in entry:
        return False
    if key == "task_name":
        name = str(value).partition("/")[0]
        return bool(entry[key] == ("mnli" if name == "mnli-mm" else name))
    if isinstance(value, list) and key != "training_params":
        return entry[key] in value
    return bool(entry[key] == value)


def trials(entries: Iterable[Entry], task: str) -> list[Trial]:
    """The runs of matching entries.

    Raises:
        DeltatuneError: an entry without the dev score.
    """
    keys = keys_of(task)
    found = []
    for entry in entries:
        if keys["dev"] not in entry:
            raise DeltatuneError(f"an entry of the log has no {keys['dev']}; ask for another task or metric")
        test, train = entry.get(keys["test"]), entry.get(keys["train"])
        found.append(Trial(seed_key(entry), float(entry["learning_rate"]), float(entry[keys["dev"]]), test, train))
    return found


def seed_key(entry: Entry) -> str:
    """`SPLIT-SEED` of an entry: what stands behind the last hyphen of its data folder, and the seed of the training."""
    folder = str(entry["data_dir"]).rpartition("-")
    return f"{folder[2]}-{entry['seed']}"
