"""Grids of settings: which runs they consist of, and what the finished ones say together."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import higher_is_better

Over = Mapping[str, Sequence[Any]]
LONGEST_NAME = 120  # of a cell, in characters: folders of 255 bytes leave room for seeds and temporary names


@dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    Args:
        name: readable and a valid file name; unlike that of every other run of the grid.
        cell: the same without the seed.
        settings: option (dotted) -> value, of the cell and of the seed.
        seed: which repetition; None where the grid has no seeds.
    """

    name: str
    cell: str
    settings: Mapping[str, Any]
    seed: int | None = None


def expand(over: Over | Sequence[Over], seeds: Sequence[int] = (), seeded: Sequence[str] = ()) -> list[GridRun]:
    """Every combination of the values of `over`, each with every seed; the first option varies slowest, seeds fastest.

    Args:
        over: option -> its values; or several such mappings, whose combinations follow one another.
        seeds: repetitions of each cell; none for a single run as the other settings say.
        seeded: the options that take the seed.

    Raises:
        DeltatuneError: nothing to vary, no values, a value or a cell twice, or an option that is seeded and varied.
    """
    parts = [over] if isinstance(over, Mapping) else list(over)
    if not any(parts) and not seeds:
        raise DeltatuneError("a grid varies something: give --over '{delta.rank: [4, 8]}', --seeds 3, or both")
    _require_distinct("--seeds", seeds)
    cells: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for part in parts:
        for option, values in part.items():
            if seeds and option in seeded:
                raise DeltatuneError(f"--over varies {option}, which --seeds sets as well; give one of them")
            _require_distinct(f"--over {option}", values)
        titles = _titles([option for other in parts for option in other])
        for combination in itertools.product(*part.values()):
            settings = dict(zip(part, combination, strict=True))
            name = _file_name([(titles[option], value) for option, value in settings.items()])
            if (key := _text(settings)) in seen:
                raise DeltatuneError(f"--over names the cell {name} twice; leave one out")
            seen.add(key)
            cells[_unlike(name, key, cells)] = settings
    runs = []
    for cell, settings in cells.items():
        for seed in seeds or (None,):
            own = {} if seed is None else dict.fromkeys(seeded, seed)
            name = "_".join(filter(None, [cell, "" if seed is None else f"seed-{seed}"]))
            runs.append(GridRun(name, cell, {**settings, **own}, seed))
    return runs


def _require_distinct(where: str, values: Sequence[Any]) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise DeltatuneError(f"{where} needs a list of values, got {values}; write [{values}]")
    texts = [_text(value) for value in values]
    if not texts and where != "--seeds":
        raise DeltatuneError(f"{where} has no values; give at least one")
    for number, text in enumerate(texts):
        if text in texts[:number]:
            raise DeltatuneError(f"{where} has the value {text} twice; leave one out")


def _titles(options: Iterable[str]) -> dict[str, str]:
    """What an option is called in a name: its last part, or all of it where another option ends alike."""
    distinct = dict.fromkeys(options)
    ends = [option.rpartition(".")[2] for option in distinct]
    return {option: end if ends.count(end) == 1 else option for option, end in zip(distinct, ends, strict=True)}


def _file_name(items: Sequence[tuple[str, Any]]) -> str:
    """`rank-4_lr-0.0001`; whatever is no letter, digit, point or sign becomes a hyphen."""
    texts = (f"{title}-{value if isinstance(value, str) else json.dumps(value, default=str)}" for title, value in items)
    return "_".join(re.sub(r"[^\w.+-]+|_", "-", text).strip("-.") for text in texts)


def _text(value: Any) -> str:
    """Equal for equal settings."""
    return json.dumps(value, sort_keys=True, default=str)


def _unlike(name: str, key: str, names: Iterable[str]) -> str:
    """`name`, or a shorter or marked one where it is too long or taken."""
    if name not in names and len(name.encode("utf-8")) <= LONGEST_NAME:
        return name
    mark = hashlib.sha256(key.encode("utf-8")).hexdigest()[:8]
    return f"{name.encode('utf-8')[: LONGEST_NAME - 9].decode('utf-8', 'ignore')}_{mark}"


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        run: which.
        status: finished, failed, or missing where it was not tried.
        error: one line, of a failed run.
        facts: what the `run.json` of a finished run says.
    """

    run: GridRun
    status: str
    error: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> tuple[str, str]:
        """Task and metric: only runs that agree in both are compared."""
        task = self.facts.get("config", {}).get("task", {}).get("task", "")
        return str(task), str(next((found["metric"] for found in self.facts.get("scores", {}).values()), ""))

    def value(self, split: str) -> float | None:
        """The score on a split; None where there is none, or it is undefined."""
        found = self.facts.get("scores", {}).get(split, {}).get("value")
        return None if found is None else float(found)


@dataclass(frozen=True)
class Spread:
    """Of the scores of n runs, the mean and the sample standard deviation (None of a single one)."""

    mean: float
    deviation: float | None
    n: int


@dataclass
class CellSummary:
    """What the runs of a cell say together.

    Args:
        cell: its name.
        task: of its runs.
        metric: of the scores.
        runs: how many there are.
        finished: how many of them are finished.
        dev: over seeds; None without dev scores.
        test: the same on test.
        best: whether it is the cell of its task with the best mean on dev, among those whose runs are all finished.
    """

    cell: str
    task: str
    metric: str
    runs: int
    finished: int
    dev: Spread | None
    test: Spread | None
    best: bool = False


def summarise(outcomes: Sequence[Outcome]) -> list[CellSummary]:
    """The cells in their order; in each task the best on dev is marked, the first of equal ones."""
    cells = []
    for cell in dict.fromkeys(outcome.run.cell for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.run.cell == cell]
        done = [outcome for outcome in own if outcome.status == "finished"]
        task, metric = done[0].group if done else ("", "")
        dev, test = (
            _spread([value for outcome in done if (value := outcome.value(split)) is not None]) for split in ("dev", "test")
        )
        cells.append(CellSummary(cell, task, metric, len(own), len(done), dev, test))
    eligible = [summary for summary in cells if summary.dev is not None and summary.dev.n == summary.runs]
    for group in dict.fromkeys((summary.task, summary.metric) for summary in eligible):
        sign = 1 if higher_is_better(group[1]) else -1
        rivals = [(sign * summary.dev.mean, summary) for summary in eligible
                  if summary.dev is not None and (summary.task, summary.metric) == group]  # fmt: skip
        max(rivals, key=lambda item: item[0])[1].best = True
    return cells


def best_runs(outcomes: Sequence[Outcome]) -> set[str]:
    """In each task, the name of the finished run with the best dev score (the first of equal ones)."""
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for outcome in outcomes:
        if outcome.status == "finished" and (value := outcome.value("dev")) is not None:
            rated = value if higher_is_better(outcome.group[1]) else -value
            if outcome.group not in found or rated > found[outcome.group][0]:
                found[outcome.group] = (rated, outcome.run.name)
    return {name for _, name in found.values()}


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
