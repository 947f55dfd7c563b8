"""The figures of paths, planes and data maps, drawn from records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from deltatune.core.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130
COLOURS = {"dev": "#1f77b4", "test": "#d62728", "train": "#2ca02c"}


def save(path: Path, draw: Callable[[Figure], None], size: tuple[float, float] = (7.0, 3.2)) -> None:
    """Draw onto an empty figure and write it as PNG."""
    # Here, not above: no command waits for matplotlib that draws nothing. No pyplot, whose state is global.
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=size, layout="constrained")
    draw(canvas)
    with replacing(path) as target:
        canvas.savefig(target, dpi=DOTS_PER_INCH, format="png", facecolor="white")


Curve = Mapping[str, Any]
_LABEL = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "linewidth": 0}


def draw_profile(figure: Figure, records: Sequence[Curve], title: str = "") -> None:
    """Loss and score along one path, with the chord between the ends; one line for each split."""
    sides = figure.subplots(1, 2)
    metric = records[0]["metric"]
    for axes, what, label in zip(sides, ("loss", "value"), ("loss", metric), strict=True):
        for split in dict.fromkeys(record["split"] for record in records):
            own = [record for record in records if record["split"] == split and record[what] is not None]
            if not own:
                continue
            xs, values = [record["x"] for record in own], [record[what] for record in own]
            axes.plot(xs, values, marker="o", markersize=3, color=COLOURS.get(split), label=split)
            axes.plot([xs[0], xs[-1]], [values[0], values[-1]], color=COLOURS.get(split), linewidth=0.8, linestyle=":")
        axes.set_xlabel("place on the path")
        axes.set_ylabel(label)
    sides[0].legend(frameon=False)
    figure.suptitle(title, fontsize=10)


def draw_pairs(figure: Figure, pairs: Sequence[Sequence[Curve]], split: str) -> None:
    """Mean profile of several pairs with the 95% t interval over pairs; each pair as a thin line."""
    sides = figure.subplots(1, 2)
    for axes, what in zip(sides, ("loss", "value"), strict=True):
        lines = [{r["x"]: r[what] for r in pair if r["split"] == split and r[what] is not None} for pair in pairs]
        places = sorted(set.intersection(*(set(found) for found in lines))) if lines else []
        for found in lines:
            axes.plot(sorted(found), [found[x] for x in sorted(found)], color="0.75", linewidth=0.8)
        if places:
            means, halves = zip(*(interval([found[x] for found in lines]) for x in places), strict=True)
            axes.plot(places, means, color=COLOURS.get(split), marker="o", markersize=3)
            low = [m - h for m, h in zip(means, halves, strict=True)]
            axes.fill_between(places, low, [m + h for m, h in zip(means, halves, strict=True)], alpha=0.2)
        axes.set_xlabel("place on the path")
        axes.set_ylabel("loss" if what == "loss" else (pairs[0][0]["metric"] if pairs and pairs[0] else "score"))
    figure.suptitle(f"{len(pairs)} pairs, {split}: mean and 95% interval over pairs", fontsize=10)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% t interval (0 for a single value)."""
    if len(values) < 2:
        return values[0], 0.0
    from scipy.stats import t

    return fmean(values), float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def draw_plane(figure: Figure, records: Sequence[Curve], corners: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Contours of the loss, and of the score, over a plane with its three points."""
    sides = figure.subplots(1, 2)
    for axes, what in zip(sides, ("loss", "value"), strict=True):
        xs, ys = (sorted({record[key] for record in records}) for key in ("u", "v"))
        value = {(record["u"], record["v"]): record[what] for record in records}
        field = [[value[x, y] for x in xs] for y in ys]
        shown = axes.contourf(xs, ys, field, levels=16, cmap="viridis_r" if what == "loss" else "viridis")
        figure.colorbar(shown, ax=axes, label="loss" if what == "loss" else records[0]["metric"])
        for (x, y), name in zip(corners, names, strict=True):
            axes.plot(x, y, marker="o", color="white", markeredgecolor="black")
            axes.annotate(name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8, bbox=_LABEL)
        axes.set_xlabel("distance along the first axis")
        axes.set_ylabel("along the second")


def draw_map(figure: Figure, rows: Sequence[Curve]) -> None:
    """The data map: confidence over variability, coloured by correctness."""
    axes = figure.subplots()
    shown = axes.scatter(
        [row["variability"] for row in rows], [row["confidence"] for row in rows],
        s=9, alpha=0.7, cmap="coolwarm_r", vmin=0, vmax=1, c=[row["correctness"] for row in rows],
    )  # fmt: skip
    figure.colorbar(shown, ax=axes, label="correctness")
    axes.set_xlabel("variability")
    axes.set_ylabel("confidence")


def draw_groups(figure: Figure, rows: Sequence[Curve], what: str = "barrier") -> None:
    """A bar for each group that moves alone: height of its loss barrier."""
    axes = figure.subplots()
    names = [row["group"] for row in rows]
    axes.barh(range(len(rows)), [row[what] for row in rows], color=COLOURS["dev"])
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(f"{what} of the loss where this group alone moves")


def draw_forgotten(figure: Figure, groups: Sequence[Curve]) -> None:
    """Numbers of newly forgotten and remembered examples, and the confidence of both and of what stays right, by step."""
    sides = figure.subplots(1, 2)
    steps = list(dict.fromkeys(f"{g['start']}-{g['end']}" for g in groups if g["start"] != "start"))
    for name, colour in (("forgotten", "#d62728"), ("remembered", "#2ca02c"), ("stays right", "0.5")):
        own = {f"{g['start']}-{g['end']}": g for g in groups if g["name"] == name}
        if name != "stays right":
            sides[0].plot(steps, [own[step]["count"] for step in steps], marker="o", color=colour, label=name)
        values = [own[step]["confidence"] for step in steps]
        sides[1].plot(steps, [float("nan") if v is None else v for v in values], marker="o", color=colour, label=name)
    for axes, label in zip(sides, ("examples", "mean confidence while training"), strict=True):
        axes.set_ylabel(label)
        axes.set_xlabel("step of the path")
        axes.tick_params(axis="x", labelrotation=30)
        axes.legend(frameon=False, fontsize=8)
