"""The figures of the claims, drawn from their records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Records = list[dict[str, Any]]


def _means(records: Records, keys: Sequence[str], value: str) -> dict[tuple[Any, ...], float]:
    """Mean of `value` over the records that agree in `keys`, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in records:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row[value])
    return {names: fmean(found) for names, found in groups.items()}


def bars(figure: Canvas, records: Records, name: str, value: str, label: str) -> None:
    """Mean of `value` for each `name`, the seeds (and tasks) as dots."""
    axes = figure.subplots()
    means = {str(names[0]): mean for names, mean in _means(records, [name], value).items()}
    axes.barh(range(len(means)), list(means.values()), color="#9ec5e8")
    for place, arm in enumerate(means):
        own = [row[value] for row in records if str(row[name]) == arm]
        axes.plot(own, [place] * len(own), linestyle="", marker="o", markersize=3, color="#1f4e79")
    axes.set_yticks(range(len(means)), list(means))
    axes.invert_yaxis()
    axes.set_xlabel(label)


def scores(figure: Canvas, records: Records) -> None:
    """Test score of each arm."""
    bars(figure, records, "arm", "score", "test score, points")


def compatibility(figure: Canvas, records: Records) -> None:
    """Test score of outdated weights in each condition."""
    bars(figure, records, "what", "score", "test score, points")


def distances(figure: Canvas, records: Records) -> None:
    """Distance of each base from the old one."""
    bars(figure, records, "base", "distance", "L2 from world/m0")


def correlations(figure: Canvas, records: Records) -> None:
    """Correlation of attention heads with those of the tuned old base."""
    rows = [{**row, "pair": f"{row['pair']}, {'same number' if row['how'] == 'same' else 'best paired'}"} for row in records]
    bars(figure, rows, "pair", "correlation", "correlation of attention heads")


def verdicts(figure: Canvas, records: Records) -> None:
    """What adapters measured, in the units of each claim."""
    names = list(dict.fromkeys(row["claim"] for row in records))
    sides = figure.subplots(1, len(names), squeeze=False)
    for axes, name in zip(sides[0], names, strict=True):
        own = [row["value"] for row in records if row["claim"] == name]
        axes.plot([0] * len(own), own, linestyle="", marker="o", markersize=4)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_xticks([])
        axes.set_title(name.replace(" ", "\n", 1), fontsize=8)
        axes.tick_params(labelsize=7)


def stages(figure: Canvas, records: Records) -> None:
    """Loss and score of outdated weights by stage, a line for each task."""
    sides = figure.subplots(1, 2)
    bases = list(dict.fromkeys(row["base"] for row in records))
    for axes, value, label in zip(sides, ("loss", "score"), ("test loss, nats", "test score, points"), strict=True):
        means = _means(records, ["task", "base"], value)
        for task in dict.fromkeys(row["task"] for row in records):
            axes.plot(range(len(bases)), [means[task, base] for base in bases], marker="o", label=task)
        axes.set_xticks(range(len(bases)), bases)
        axes.set_ylabel(label)
    sides[0].legend(frameon=False, fontsize=8)


def lines(figure: Canvas, records: Records) -> None:
    """Loss and score along both paths."""
    sides = figure.subplots(1, 2)
    for axes, value, label in zip(sides, ("loss", "value"), ("test loss, nats", "test score, points"), strict=True):
        means = _means(records, ["pair", "x"], value)
        for pair in dict.fromkeys(row["pair"] for row in records):
            xs = sorted({x for name, x in means if name == pair})
            axes.plot(xs, [means[pair, x] for x in xs], marker="o", markersize=3, label=pair)
        axes.set_xlabel("place on the path")
        axes.set_ylabel(label)
    sides[0].legend(frameon=False, fontsize=8)


def convergence(figure: Canvas, records: Records) -> None:
    """Mean dev score by update, a line for each arm."""
    axes = figure.subplots()
    means = _means(records, ["arm", "step"], "value")
    for arm in dict.fromkeys(row["arm"] for row in records):
        steps = sorted({step for name, step in means if name == arm})
        axes.plot(steps, [means[arm, step] for step in steps], marker="o", markersize=3, label=arm)
    axes.set_xlabel("updates")
    axes.set_ylabel("dev score, points")
    axes.legend(frameon=False, fontsize=8)
