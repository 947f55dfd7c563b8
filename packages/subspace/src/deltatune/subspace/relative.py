"""Relative performance: what is kept of the score of the original solution, and how sure that is.

E_rel(s -> t) = 100 score(point found through s, decoded into t) / score(original solution of t), both on one set of examples. The
denominator belongs to the target, whatever the source. Corrected for chance: 100 (score - chance) / (original - chance), where
chance is the best score of one constant answer; an E_rel of 50 on a task of two classes is chance and not half.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from deltatune.core.data import Example
from deltatune.core.formats import Format
from deltatune.core.metrics import higher_is_better, score

_CANDIDATES = 20  # constant answers that are tried for chance, the most frequent ones
_FEWEST = 1.0  # points above chance that an original must have for a corrected ratio to mean anything


def relative(value: float | None, original: float | None) -> float | None:
    """E_rel in percent; None where a score is missing or the original's is not above 0."""
    if value is None or original is None or original <= 0:
        return None
    return 100 * value / original


def corrected(value: float | None, original: float | None, chance: float) -> float | None:
    """E_rel corrected for chance; None where the original is not above chance by a point."""
    if value is None or original is None or 100 * (original - chance) < _FEWEST:
        return None
    return 100 * (value - chance) / (original - chance)


def chance_of(form: Format, examples: Sequence[Example]) -> float:
    """The best score of one constant answer to `examples`; 0 where a constant has no score, as with a correlation."""
    references: list[Any] = form.references(examples)
    right = [answer for item in references for answer in (dict.fromkeys(map(str, item)) if isinstance(item, list) else [item])]
    candidates: list[Any] = [answer for answer, _ in Counter(right).most_common(_CANDIDATES)]
    if form.metric == "mse":
        candidates.append(fmean(references))
    sign = 1 if higher_is_better(form.metric) else -1
    found = [score(form.metric, [candidate] * len(references), references).value for candidate in candidates]
    return sign * max((sign * value for value in found if not math.isnan(value)), default=0.0)


def near_chance(value: float, chance: float, n: int) -> bool:
    """Whether a share of `n` is within the 95% binomial interval (Wilson) of the share `chance`."""
    if n < 1 or not 0 <= chance <= 1:
        return False
    z = 1.959964
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(max(0.0, value * (1 - value)) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return centre - half <= chance <= centre + half


def at_chance(value: float, chance: float, n: int) -> bool:
    """Whether a share of `n` is no better than chance: below it, as where no known answer is written, or not told from it."""
    return value <= chance or near_chance(value, chance, n)


@dataclass(frozen=True)
class Spread:
    """A mean with its 95% interval over what was resampled, and of how many values."""

    mean: float
    low: float
    high: float
    n: int

    def text(self) -> str:
        """As tables show it."""
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]" if self.n > 1 else f"{self.mean:.1f}"


def bootstrap(cells: Mapping[tuple[Any, Any], float], seed: int = 0, draws: int = 2000) -> Spread:
    """Mean and percentile interval of values by (task, seed): tasks are drawn anew, and seeds within each.

    With one task, seeds alone are drawn; with one seed, tasks alone.
    """
    by_task: dict[Any, list[float]] = {}
    for (task, _), value in cells.items():
        by_task.setdefault(task, []).append(value)
    if not by_task:
        return Spread(math.nan, math.nan, math.nan, 0)
    generator = np.random.default_rng(seed)
    groups = [np.asarray(values) for values in by_task.values()]
    means = []
    for _ in range(draws):
        chosen = generator.integers(len(groups), size=len(groups))
        means.append(fmean(float(generator.choice(groups[i], size=len(groups[i])).mean()) for i in chosen))
    low, high = np.percentile(means, [2.5, 97.5])
    return Spread(fmean(float(group.mean()) for group in groups), float(low), float(high), len(cells))


def paired(left: Mapping[Any, float], right: Mapping[Any, float]) -> dict[Any, float]:
    """The differences left - right at every key that both have."""
    return {key: left[key] - right[key] for key in left if key in right}


def table(rows: Sequence[str], columns: Sequence[str], cell: Callable[[str, str], float | None], corner: str = "task") -> str:
    """A Markdown table with a mean of every row and column, as the published ones have them."""
    lines = [f"| {corner} | {' | '.join([*columns, 'mean'])} |", f"|---|{'---|' * (len(columns) + 1)}"]
    values = {row: [cell(row, column) for column in columns] for row in rows}
    for row in rows:
        lines.append(_line(row, values[row]))
    if len(rows) > 1:
        lines.append(_line("mean", [_mean([values[row][i] for row in rows]) for i in range(len(columns))]))
    return "\n".join(lines) + "\n"


def _line(name: str, values: Sequence[float | None]) -> str:
    return f"| {name} | {' | '.join('' if value is None else f'{value:.1f}' for value in [*values, _mean(values)])} |"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
