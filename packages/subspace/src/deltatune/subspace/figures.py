"""Figures like the paper's, drawn from records: relative performance, transfer between deltas, the landscape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deltatune.core.files import replacing
from deltatune.subspace.relative import relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
COLOURS = ("#3b6ea8", "#d98032", "#4f9d5d", "#a0527f", "#777777")


def save(path: Path, draw: Callable[[Figure], None], size: tuple[float, float] = (6.4, 3.6)) -> None:
    """Draw onto an empty figure and write it as PNG, as a whole or not at all."""
    from matplotlib.figure import Figure  # no command waits for matplotlib that draws nothing

    canvas = Figure(figsize=size, layout="constrained")
    draw(canvas)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as target:
        canvas.savefig(target, dpi=130, format="png", facecolor="white")


def bars(figure: Figure, records: Sequence[Record], measure: str = "relative") -> None:
    """Optimization beside the controls: a group for each task, a bar for each target delta, chance as a line in each group.

    Chance is drawn over the bars of each target, in the unit of `measure`: a guess's score relative to the target's original
    is another for each target. A record without `chance`, or a relative one without an original, has no line.
    """
    chart = figure.subplots()
    tasks = list(dict.fromkeys(record["task"] for record in records))
    shown = ("optimization", "head optimization", "random optimization", "zero", "mean")
    kinds = [kind for kind in shown if any(r["kind"] == kind for r in records)]
    names = list(dict.fromkeys(record["target"] for record in records))
    wide = 0.8 / max(1, len(kinds) * len(names))
    levels: list[tuple[float, float]] = []
    for i, kind in enumerate(kinds):
        for j, name in enumerate(names):
            found = [[r for r in records if (r["task"], r["kind"], r["target"]) == (task, kind, name)] for task in tasks]
            own = [_mean(r[measure] for r in rows) for rows in found]
            places = [x - 0.4 + (i * len(names) + j + 0.5) * wide for x in range(len(tasks))]
            label, shade = f"{name}, {kind}", 1 - 0.88 * i / len(kinds)
            chart.bar(places, [v or 0.0 for v in own], wide * 0.92, label=label, color=COLOURS[j % 5], alpha=shade)
            levels += [(x, level) for x, rows in zip(places, found, strict=True) if (level := _level(rows, measure)) is not None]
    if levels:
        middles, heights = zip(*levels, strict=True)
        left, right = ([x + side * wide / 2 for x in middles] for side in (-1, 1))
        chart.hlines(heights, left, right, color="black", linewidth=1.2, label="chance")
    if measure == "relative":
        chart.axhline(100, color="#444444", linewidth=0.8, linestyle=":")
    chart.set_xticks(range(len(tasks)), [task.rpartition("/")[2] for task in tasks], rotation=15)
    chart.set_ylabel("% of the original's score" if measure == "relative" else "score")
    chart.legend(fontsize=6, ncols=max(1, len(kinds)), loc="upper left", bbox_to_anchor=(0, -0.14), frameon=False)


def heat(figure: Figure, records: Sequence[Record], measure: str = "relative") -> None:
    """Source delta (rows) decoded into target delta (columns), mean over tasks."""
    chart = figure.subplots()
    kept = [record for record in records if record["kind"] in ("optimization", "transfer")]
    sources = list(dict.fromkeys(record["source"] for record in kept))
    targets = list(dict.fromkeys(record["target"] for record in kept))
    values = [
        [_mean(r[measure] for r in kept if (r["source"], r["target"]) == (source, target)) for target in targets]
        for source in sources
    ]
    shown = [[float("nan") if value is None else value for value in row] for row in values]
    top = 110.0 if measure == "relative" else 1.0
    image = chart.imshow(shown, vmin=0.0, vmax=top, cmap="viridis")
    for i, row in enumerate(shown):
        for j, value in enumerate(row):
            text = f"{value:.1f}" if measure == "relative" else f"{value:.2f}"
            chart.text(j, i, text, ha="center", va="center", color="white" if value < 0.6 * top else "black")
    chart.set_xticks(range(len(targets)), targets)
    chart.set_yticks(range(len(sources)), sources)
    chart.set_xlabel("decoded into")
    chart.set_ylabel("found through")
    figure.colorbar(image, label="% of the original's score" if measure == "relative" else "score")


def maps(figure: Figure, records: Sequence[Record], corners: Sequence[str]) -> None:
    """A landscape: one map for each delta, on the triangle (`corners` named) or on a plane."""
    names = list(dict.fromkeys(record["delta"] for record in records))
    charts = figure.subplots(1, len(names), squeeze=False)[0]
    values = [record["value"] if record["value"] is not None else 0.0 for record in records]
    low, high = min(values), max(values)
    drawn: Any = None
    for chart, name in zip(charts, names, strict=True):
        own = [record for record in records if record["delta"] == name]
        xs, ys = [record["x"] for record in own], [record["y"] for record in own]
        zs = [record["value"] if record["value"] is not None else 0.0 for record in own]
        drawn = chart.scatter(xs, ys, c=zs, vmin=low, vmax=high if high > low else low + 1e-9, cmap="viridis", s=46, marker="h")
        for corner, (x, y) in zip(corners, ((0.0, 0.0), (1.0, 0.0), (0.5, 3**0.5 / 2)), strict=False):
            chart.annotate(corner, (x, y), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=7)
        chart.set_title(f"decoded as {name}", fontsize=9)
        chart.set_aspect("equal")
        chart.margins(0.12)
        chart.set_xticks([])
        chart.set_yticks([])
    figure.colorbar(drawn, ax=list(charts), label="score", shrink=0.8)


def _level(records: Sequence[Record], measure: str) -> float | None:
    """The mean of what a guess scores, in the unit of `measure`."""
    chances = ((r.get("chance"), r.get("original")) for r in records)
    return _mean(relative(chance, original) if measure == "relative" else chance for chance, original in chances)


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
