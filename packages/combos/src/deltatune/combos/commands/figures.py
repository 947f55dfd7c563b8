"""Figures like the paper's."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from deltatune.combos.gathering import Chosen
from deltatune.combos.results import Cell, cells, columns_of, score_cell
from deltatune.core.files import replacing


def draw(
    chosen: Mapping[tuple[str, str, str], Chosen], path: Path, cell: Cell = score_cell, title: str = "score (percent)"
) -> None:
    """Bars of the reported scores, or of another `cell`: a group for each task and template, a bar for each combination."""
    from matplotlib.figure import Figure

    columns, lines = columns_of(chosen), cells(chosen, cell)
    figure = Figure(figsize=(max(6.0, 1.2 + 0.18 * len(columns) * len(lines)), 4.0), layout="constrained")
    axes = figure.add_subplot()
    wide = 0.85 / len(columns)
    for number, name in enumerate(columns):
        there = [(place, value) for place, (_, _, values) in enumerate(lines) if (value := values[number]) is not None]
        axes.bar(
            [place + (number - (len(columns) - 1) / 2) * wide for place, _ in there],
            [100 * value[0] for _, value in there],
            wide,
            yerr=[100 * value[1] for _, value in there],
            label=name,
            error_kw={"linewidth": 0.8},
        )
    axes.set_xticks(range(len(lines)), [f"{task}\n{template}" for task, template, _ in lines], fontsize=8)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_ylabel(title)
    axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    _write(figure, path)


def draw_sequence(curves: Mapping[str, Sequence[tuple[int, float]]], ends: Sequence[int], path: Path, title: str = "") -> None:
    """Dev score over the updates of sequences, one line each; dotted where a stage ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.plot([step for step, _ in points], [100 * value for _, value in points], label=name, linewidth=1.2)
    for end in ends:
        axes.axvline(end, color="grey", linestyle=":", linewidth=0.8)
    axes.set_xlabel("updates")
    axes.set_ylabel("dev score (percent)")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8)
    _write(figure, path)


def _write(figure: object, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)  # type: ignore[attr-defined]
    with replacing(path) as target:
        target.write_bytes(buffer.getvalue())
