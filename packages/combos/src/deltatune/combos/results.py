"""The finished runs of grids, as rows; and the tables that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltatune.combos.combination import SIMULTANEOUS
from deltatune.combos.gathering import Chosen, Rule, Trial, choose
from deltatune.core.data import short_name
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.metrics import higher_is_better

COLUMNS = ("task", "template", "methods")


@dataclass(frozen=True)
class Row:
    """A finished run.

    Args:
        facts: what tells runs apart: task, template, methods, seed, rate, batch size, tag, model, ....
        trial: its scores.
        metric: of the scores.
        update_ms: milliseconds of an update, evaluations on the way included; None without updates.
        trained: how many numbers were trained.
        path: the run's folder, where it is known.
    """

    facts: Mapping[str, Any]
    trial: Trial
    metric: str
    update_ms: float | None
    trained: int
    path: Path | None = None

    @property
    def place(self) -> tuple[str, str, str]:
        """Task, template and methods."""
        return str(self.facts["task"]), str(self.facts["template"]), str(self.facts["methods"])


def row_of(about: Mapping[str, Any]) -> Row | None:
    """The row of a `run.json`; None if the run is not finished, or none of a combination, or has no dev score."""
    config = about.get("config") or {}
    method, scores = config.get("method") or {}, about.get("scores") or {}
    if about.get("status") != "finished" or "methods" not in method or "dev" not in scores:
        return None
    task, train = config["task"], config["train"]
    updates = train["steps"] * max(1, len(method.get("stages", ())))
    facts = {
        "task": task["task"],
        "template": (method["template"] or "head") + (" with demonstrations" if "demonstrations" in method else ""),
        "methods": method["methods"],
        "seed": config["init_seed"],
        "rate": config.get("learning_rate"),
        "batch_size": train["batch_size"] * train["accumulation"],
        "tag": about.get("tag", ""),
        "model": config["backbone"]["model"],
        "shots": task.get("shots"),
        "steps": train["steps"],
        "dropout": method.get("dropout", "on"),
    }
    found = {split: numbers.get("value") for split, numbers in {**about.get("found", {}), **scores}.items()}
    value: Callable[[str], float | None] = lambda split: None if split not in found else _or_nan(found[split])  # noqa: E731
    setting = "" if method["methods"] == "none" else f"batch {facts['batch_size']}"
    trial = Trial(str(facts["seed"]), facts["rate"], _or_nan(found["dev"]), value("test"), value("train"), setting)
    seconds = about.get("train_seconds") or 0.0
    trained = sum((about.get("trainable") or {}).values())
    return Row(facts, trial, scores["dev"]["metric"], 1000 * seconds / updates if seconds else None, trained)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def rows_below(folders: Iterable[Path]) -> list[Row]:
    """The rows of all finished runs in or below some folders; stages of a sequence are not runs of their own.

    Raises:
        DeltatuneError: a folder that is not there, or no finished run in any.
    """
    found: list[Row] = []
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise DeltatuneError(f"no such folder: {folder}; give folders of grids or runs")
        for path in sorted(folder.rglob("run.json")):
            parent = path.parent.parent / "run.json"
            inside = parent.is_file() and "stages" in (read_json(parent).get("config", {}).get("method") or {})
            if not inside and (row := row_of(read_json(path))) is not None:
                found.append(replace(row, path=path.parent))
    if not found:
        raise DeltatuneError(
            f"no finished run of a combination in {', '.join(map(str, folders))}; make some with deltatune-combos grid"
        )
    return found


def narrowed(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that hold every `KEY=VALUE`; values are compared as text, those of one key are alternatives.

    Raises:
        DeltatuneError: no `=`, a key that runs do not have, or no row left.
    """
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        key, sign, value = condition.partition("=")
        if not sign or key not in rows[0].facts:
            raise DeltatuneError(f"--where {condition}: give KEY=VALUE, with one of the keys {', '.join(rows[0].facts)}")
        wanted.setdefault(key, []).append(value)
    left = [row for row in rows if all(_text(row.facts[key]) in values for key, values in wanted.items())]
    if not left:
        there = {key: sorted({_text(row.facts[key]) for row in rows}) for key in wanted}
        raise DeltatuneError(
            f"--where leaves no run; there are {'; '.join(f'{key}: {chr(44).join(v)}' for key, v in there.items())}"
        )
    return left


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def chosen_of(rows: Sequence[Row], rule: Rule) -> dict[tuple[str, str, str], Chosen]:
    """For each task, template and combination what `rule` chooses of its runs."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.place, []).append(row)
    return {
        place: choose([row.trial for row in own], rule, 1 if higher_is_better(own[0].metric) else -1)
        for place, own in groups.items()
    }


def columns_of(places: Iterable[tuple[str, str, str]]) -> list[str]:
    """The combinations, the published ones first and in the published order."""
    there = list(dict.fromkeys(methods for _, _, methods in places))
    return [name for name in SIMULTANEOUS if name in there] + [name for name in there if name not in SIMULTANEOUS]


Cell = Callable[[Chosen], tuple[float, float] | None]


def cells(chosen: Mapping[tuple[str, str, str], Chosen], cell: Cell) -> list[tuple[str, str, list[tuple[float, float] | None]]]:
    """Lines (task by its short name, template, mean and deviation of every combination); averages of each template last.

    They are over the tasks that every template has, so that templates compare; a column has one where all of these have a number,
    and its deviation is the mean one.
    """
    columns = columns_of(chosen)
    found = {
        head: [cell(chosen[*head, name]) if (*head, name) in chosen else None for name in columns]
        for head in dict.fromkeys((task, template) for task, template, _ in chosen)
    }
    lines = [(short_name(task), template, values) for (task, template), values in found.items()]
    tasks, templates = (list(dict.fromkeys(head[place] for head in found)) for place in (0, 1))
    common = [task for task in tasks if all((task, template) in found for template in templates)]
    name = "average" if len(common) == len(tasks) else f"average of {len(common)}"
    for template in templates if len(common) > 1 else ():
        own = zip(*(found[task, template] for task in common), strict=True)
        lines.append((name, template, [_average(values) for values in own]))
    return lines


def _average(values: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None and not math.isnan(value[0])]
    if len(known) < len(values):
        return None
    return sum(mean for mean, _ in known) / len(known), sum(deviation for _, deviation in known) / len(known)


def score_cell(chosen: Chosen) -> tuple[float, float]:
    """Mean and population standard deviation of the reported score."""
    return chosen.mean, chosen.deviation


def gap_cell(chosen: Chosen) -> tuple[float, float] | None:
    """Mean and population standard deviation of training score minus the reported one."""
    return chosen.gap


def markdown(lines: Sequence[tuple[str, str, list[tuple[float, float] | None]]], columns: Sequence[str], best: bool) -> str:
    """A table in Markdown, in percent; with `best` the greatest mean of a line is bold."""
    text = [f"| task | template | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for task, template, values in lines:
        means = [value[0] for value in values if value is not None and not math.isnan(value[0])]
        top = max(means) if best and means else None
        text.append(f"| {task} | {template} | {' | '.join(_cell(value, top) for value in values)} |")
    return "\n".join(text) + "\n"


def _cell(value: tuple[float, float] | None, top: float | None) -> str:
    if value is None:
        return ""
    shown = f"{100 * value[0]:.1f} ± {100 * value[1]:.1f}"
    return f"**{shown}**" if value[0] == top else shown
