"""The table and the figures of `modeconn.py`, made from its records."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.modeconn import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"line": "#1f77b4", "align": "#2ca02c", "product": "#9467bd", "curve": "#ff7f0e"}


def rows(found: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over pairs, then the pairs."""
    lines = ["| pairs | path | task | delta | accuracy of the ends | loss barrier | drop, points | connected | void pairs |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for key in dict.fromkeys(tuple(r[name] for name in ("kind", "shape", "task", "delta")) for r in found):
        own = [r for r in found if tuple(r[name] for name in ("kind", "shape", "task", "delta")) == key]
        ends = " / ".join(f"{100 * statistics.mean(r['ends'][side] for r in own):.1f}" for side in (0, 1))
        cells = [ends, over_pairs([r["barrier"] for r in own], 3), over_pairs([100 * r["drop"] for r in own], 1)]
        counts = [f"{sum(r['connected'] for r in own)} of {len(own)}", str(sum(not r["good"] for r in own))]
        lines.append(f"| {' | '.join([*key, *cells, *counts])} |")
    lines += [
        "",
        "| pair | path | task | left | right | loss barrier | drop, points | examples | void |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(found, key=lambda r: not r["good"]):
        cells = [r["pair"], r["shape"], r["task"], *(f"{100 * end:.1f}" for end in r["ends"]), f"{r['barrier']:.3f}"]
        lines.append(f"| {' | '.join(cells)} | {100 * r['drop']:.1f} | {r['n']} | {'' if r['good'] else 'yes'} |")
    return "\n".join(lines) + "\n"


def over_pairs(values: list[float], digits: int) -> str:
    """Mean ± standard deviation; the value of a single pair."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def draw(found: list[dict[str, Any]], folder: Path) -> Iterator[Path]:
    """One figure for each kind of pair: a row for each task, with loss and accuracy along its paths."""
    for kind in dict.fromkeys(r["kind"] for r in found):
        own = [r for r in found if r["kind"] == kind]
        tasks = list(dict.fromkeys(r["task"] for r in own))
        path = folder / f"modeconn-{kind}.png"
        figures.save(path, partial(_draw, own=own, tasks=tasks), (7.0, 2.4 * len(tasks)))
        yield path


def _draw(figure: Figure, own: list[dict[str, Any]], tasks: list[str]) -> None:
    grid, means_of = figure.subplots(len(tasks), 2, squeeze=False), {}
    for sides, task in zip(grid, tasks, strict=True):
        for axes, what in zip(sides, ("loss", "value"), strict=True):
            for shape in dict.fromkeys(r["shape"] for r in own if r["task"] == task):
                paths = [r for r in own if (r["task"], r["shape"]) == (task, shape)]
                for r in paths:
                    axes.plot(
                        r["x"], r[what], color=COLOURS[shape], linewidth=0.7, alpha=0.5, linestyle="-" if r["good"] else ":"
                    )
                means = [statistics.mean(values) for values in zip(*(r[what] for r in paths), strict=True)]
                [means_of[shape]] = axes.plot(paths[0]["x"], means, color=COLOURS[shape], marker="o", markersize=3)
            axes.set_ylabel(f"{task}: {'dev loss' if what == 'loss' else paths[0]['metric']}")
    for axes in grid[-1]:
        axes.set_xlabel("place on the path")
    names = [f"{shape}, mean over pairs" for shape in means_of]
    figure.legend(list(means_of.values()), names, loc="outside upper center", frameon=False, fontsize=8, ncols=len(names))
