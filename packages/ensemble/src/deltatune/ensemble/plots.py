"""Figures of scores and weights, as the paper draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.core.files import replacing

_INCH_PER_CELL = 0.28
_DOTS_PER_INCH = 150


def heat_map(
    path: Path, matrix: Mapping[str, Mapping[str, float]], sources: Sequence[str], title: str, rows: str = "target"
) -> None:
    """Weights or scores as colours: a row for each target, a column for each source; what is missing (its own) stays empty.

    Args:
        path: of the PNG file.
        matrix: target -> source -> value.
        sources: the columns.
        title: above it.
        rows: what a row is.
    """
    from matplotlib.figure import Figure

    targets = list(matrix)
    width, height = 2.4 + _INCH_PER_CELL * len(sources), 1.8 + _INCH_PER_CELL * len(targets)
    figure = Figure(figsize=(max(4.0, width), max(2.6, height)), layout="constrained")
    axes = figure.subplots()
    cells = [[matrix[target].get(source, float("nan")) for source in sources] for target in targets]
    image = axes.imshow(cells, cmap="coolwarm", aspect="auto")
    axes.set_xticks(range(len(sources)), sources, rotation=90, fontsize=7)
    axes.set_yticks(range(len(targets)), targets, fontsize=7)
    axes.set_xlabel("source")
    axes.set_ylabel(rows)
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes)
    _save(figure, path)


def importance(path: Path, scores: Mapping[str, float], title: str, label: str) -> None:
    """One bar for each module, encoder before decoder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.0, 1.5 + 0.22 * len(scores)), 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(scores)), list(scores.values()), color=["C0" if "decoder" not in name else "C1" for name in scores])
    axes.set_xticks(range(len(scores)), list(scores), rotation=90, fontsize=6)
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=9)
    _save(figure, path)


def curve(path: Path, losses: Mapping[str, Mapping[float, float]], title: str) -> None:
    """Loss on dev over the temperature, a line for each target."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for target, found in losses.items():
        axes.plot(range(len(found)), list(found.values()), marker="o", markersize=3, label=target)
        axes.set_xticks(range(len(found)), [f"{temperature:g}" for temperature in found])
    axes.set_xlabel("temperature")
    axes.set_ylabel("loss of the mixture on dev")
    axes.set_title(title, fontsize=9)
    if len(losses) <= 10:
        axes.legend(fontsize=7)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as target:
        figure.savefig(target, dpi=_DOTS_PER_INCH, format="png", facecolor="white")
