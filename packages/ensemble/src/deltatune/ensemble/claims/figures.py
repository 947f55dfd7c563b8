"""The figures of the claims, drawn from their records."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Records = list[dict[str, Any]]


def _bars(figure: Canvas, records: Records, name: str, value: str, label: str) -> None:
    """Mean of `value` for each `name`, all records as dots."""
    axes = figure.subplots()
    groups: dict[str, list[float]] = {}
    for row in records:
        if name in row and value in row:
            groups.setdefault(str(row[name]), []).append(float(row[value]))
    axes.barh(range(len(groups)), [fmean(found) for found in groups.values()], color="#9ec5e8")
    for place, found in enumerate(groups.values()):
        axes.plot(found, [place] * len(found), linestyle="", marker="o", markersize=2, color="#1f4e79")
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.set_xlabel(label)


def _lines(figure: Canvas, records: Records, name: str, x: str, y: str) -> Any:
    """Mean of `y` at each `x`, a line for each `name`; the axes."""
    axes = figure.subplots()
    for line in dict.fromkeys(row[name] for row in records):
        own = [row for row in records if row[name] == line]
        places = sorted({row[x] for row in own})
        axes.plot(places, [fmean(row[y] for row in own if row[x] == at) for at in places], marker="o", markersize=3, label=line)
    axes.legend(frameon=False)
    return axes


def scores(figure: Canvas, records: Records) -> None:
    """Test score from each start."""
    _bars(figure, records, "arm", "score", "test score, points")


def hits(figure: Canvas, records: Records) -> None:
    """How often the nearest source is of the target's kind."""
    rows = [{"measure": row["measure"], "share": 100.0 * row["hit"]} for row in records if "hit" in row]
    axes = figure.subplots()
    names = list(dict.fromkeys(row["measure"] for row in rows))
    axes.bar(names, [fmean(row["share"] for row in rows if row["measure"] == name) for name in names], color="#9ec5e8")
    axes.axhline(100 * 3 / 23, color="0.4", linestyle="--", label="chance")
    axes.set_ylabel("nearest source of the target's kind, percent")
    axes.legend(frameon=False)


def transfer(figure: Canvas, records: Records) -> None:
    """Loss before and score after tuning from each source."""
    axes = figure.subplots()
    for target in dict.fromkeys(row["target"] for row in records):
        own = [row for row in records if row["target"] == target]
        axes.plot(
            [row["loss"] for row in own], [row["score"] for row in own], linestyle="", marker="o", markersize=3, label=target
        )
    axes.set_xscale("log")
    axes.set_xlabel("loss of the source on dev, nats")
    axes.set_ylabel("test score after tuning, points")
    axes.legend(frameon=False, fontsize=7)


def losses(figure: Canvas, records: Records) -> None:
    """Loss of the mixture by temperature on both splits."""
    axes = figure.subplots()
    rows = [row for row in records if "T" in row]
    places = sorted({row["T"] for row in rows}, key=float)
    for split in ("dev", "test"):
        means = [fmean(row["loss"] for row in rows if row["T"] == at and row["split"] == split) for at in places]
        axes.plot(range(len(places)), means, marker="o", markersize=3, label=split)
    axes.set_xticks(range(len(places)), ["best source" if float(at) == 0 else "average" if at == "inf" else at for at in places])
    axes.set_xlabel("temperature")
    axes.set_ylabel("loss of the untuned mixture, nats")
    axes.legend(frameon=False)


def modules(figure: Canvas, records: Records) -> None:
    """Test score by sub-layer."""
    _bars(figure, records, "module", "score", "test score, points")


def shots(figure: Canvas, records: Records) -> None:
    """Gain by number of examples, a line for each target."""
    axes = _lines(figure, records, "target", "shots", "gain")
    axes.set_xscale("log", base=2)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel("examples of each class")
    axes.set_ylabel("gain over initial values, points")


def convergence(figure: Canvas, records: Records) -> None:
    """Mean dev score by update."""
    axes = _lines(figure, records, "start", "update", "score")
    axes.set_xlabel("update")
    axes.set_ylabel("dev score, points")
