"""From the scores of many runs to one number for each combination: which setting is chosen, by what, and what it gives.

Three rules. `per_seed` (default): in each seed the trial with the best dev score. `mean_dev`: the learning rate with the best
mean dev score. `test`: the learning rate with the best mean *test* score, as the published tables were made (D1): it looks at
test, and is here to measure how much that gives.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from deltatune.core.errors import DeltatuneError

Rule = Literal["per_seed", "mean_dev", "test"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Trial:
    """One run.

    Args:
        seed: which repetition: of the sample, the initial values and the order together.
        rate: learning rate; None of a zero-shot run.
        dev: score that selects.
        test: score that reports; None where there is no test (full data: dev takes its place).
        train: score on the training examples; None where it was not measured.
        setting: whatever else was varied, such as the batch size; part of what is chosen.
    """

    seed: str
    rate: float | None
    dev: float
    test: float | None = None
    train: float | None = None
    setting: str = ""

    @property
    def reported(self) -> float:
        """The test score, or dev where there is none."""
        return self.dev if self.test is None else self.test

    @property
    def gap(self) -> float | None:
        """Training score minus the reported one: positive where the model over-fits."""
        return None if self.train is None else self.train - self.reported


@dataclass(frozen=True)
class Chosen:
    """What was chosen, and what it gives.

    Args:
        trials: one for each seed.
        tried: how many trials there were.
        rates: learning rate of each chosen trial.
        border: the one rate that was chosen is the `smallest` or `largest` that was tried; the grid may be too narrow.
    """

    trials: tuple[Trial, ...]
    tried: int
    rates: tuple[float | None, ...]
    border: str | None = None

    @property
    def mean(self) -> float:
        """Mean reported score."""
        return statistics.fmean(trial.reported for trial in self.trials)

    @property
    def deviation(self) -> float:
        """Population standard deviation of the reported scores (n in the denominator, as published)."""
        return statistics.pstdev([trial.reported for trial in self.trials])

    @property
    def median(self) -> float:
        """Median reported score."""
        return statistics.median(trial.reported for trial in self.trials)

    @property
    def gap(self) -> tuple[float, float] | None:
        """Mean and population standard deviation of the signed gaps; None where a training score is missing."""
        gaps = [trial.gap for trial in self.trials]
        known = [gap for gap in gaps if gap is not None]
        return (statistics.fmean(known), statistics.pstdev(known)) if known and len(known) == len(gaps) else None

    @property
    def best_rate(self) -> float | None:
        """The learning rate, where all seeds have one."""
        return self.rates[0] if len(set(self.rates)) == 1 else None


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """The trials, a later one in place of an earlier one of the same seed and setting."""
    found: dict[tuple[str, float | None, str], Trial] = {}
    for trial in trials:
        found[trial.seed, trial.rate, trial.setting] = trial
    return list(found.values())


def choose(trials: Sequence[Trial], rule: Rule = "per_seed", sign: int = 1) -> Chosen:
    """What `rule` chooses; equal scores keep the first, nan is never better.

    Where a seed was run twice with one setting, the rules that take means count the later run.

    Args:
        trials: of one task, combination and template.
        rule: see the module.
        sign: -1 for a metric where less is better.

    Raises:
        DeltatuneError: no trial.
    """
    if not trials:
        raise DeltatuneError("gather: no run to choose from")
    if rule == "per_seed":
        seeds = list(dict.fromkeys(trial.seed for trial in trials))
        best = [_first([t for t in trials if t.seed == seed], lambda trial: sign * trial.dev) for seed in seeds]
        return Chosen(tuple(best), len(trials), tuple(trial.rate for trial in best), _border(best, trials))
    groups: dict[tuple[float | None, str], list[Trial]] = {}
    for trial in distinct(trials):
        groups.setdefault((trial.rate, trial.setting), []).append(trial)

    def value(group: list[Trial]) -> float:
        return sign * statistics.fmean(trial.dev if rule == "mean_dev" else trial.reported for trial in group)

    found = _first(list(groups.values()), value)
    return Chosen(tuple(found), len(trials), tuple(trial.rate for trial in found), _border(found, trials))


def complete(trials: Sequence[Trial]) -> list[Trial]:
    """The trials of settings that were run with every seed: means over other seeds do not compare."""
    seeds = {trial.seed for trial in trials}
    groups: dict[tuple[float | None, str], set[str]] = {}
    for trial in trials:
        groups.setdefault((trial.rate, trial.setting), set()).add(trial.seed)
    return [trial for trial in trials if groups[trial.rate, trial.setting] == seeds]


def _first(items: Sequence[Item], value: Callable[[Item], float]) -> Item:
    """The item of the greatest value, the first of equal ones."""

    def number(item: Item) -> float:
        found = value(item)
        return -math.inf if math.isnan(found) else found

    return max(items, key=number)


def _border(chosen: Sequence[Trial], trials: Sequence[Trial]) -> str | None:
    rates = sorted({trial.rate for trial in trials if trial.rate is not None})
    taken = {trial.rate for trial in chosen}
    if len(rates) < 2 or len(taken) != 1 or math.isnan(rates[0]):
        return None
    return {rates[0]: "smallest", rates[-1]: "largest"}.get(taken.pop() or math.nan)
