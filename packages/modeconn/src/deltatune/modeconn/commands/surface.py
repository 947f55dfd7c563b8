"""`plane`: loss and score over the plane through three tuned models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.errors import DeltatuneError
from deltatune.modeconn import figures
from deltatune.modeconn.commands.shown import PROGRAM
from deltatune.modeconn.endpoints import describe, identity, require_runs, transformed
from deltatune.modeconn.geometry import plane as through
from deltatune.modeconn.scenes import Along, Where, is_whole, scene, tasks_of, without_weights
from deltatune.modeconn.sweeps import Limits, Split, gram, measure, records


def plane(
    left: Path,
    right: Path,
    third: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    points: int = 11,
    margin: float = 0.2,
    split: Split = "dev",
    task: str | None = None,
    data_dir: Path | None = None,
    align: bool = False,
    along: Along = "auto",
    model: str | None = None,
    device: Device = "auto",
    max_dev: int | None = None,
    max_test: int | None = None,
    max_train: int | None = None,
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Evaluate a grid on the plane through three tuned models, and draw the contours of loss and score.

    Args:
        left: a run, RUN@STEP, a delta folder, an adapter folder of PEFT, or a Hugging Face model folder; the origin.
        right: another of the same kind and settings, on the first axis.
        third: one more; also the control point of a curve (RUN/controls/1), to see the curve's plane.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        points: places in each direction.
        margin: how far the grid reaches over the three points, as a share of their extent.
        split: dev, test, both (eval), or train; the figure shows the first.
        task: another task than the left run's.
        data_dir: where the task's files are now, if not where they were.
        align: first undo the symmetries of the other two against the left one.
        along: see `walk`.
        model: where the base is now, if not where the left run found it.
        device: where to compute.
        max_dev: use the first N dev examples.
        max_test: use the first N test examples.
        max_train: with --split train, use the first N training examples.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    if points < 2 or margin < 0:
        raise DeltatuneError(f"a grid has at least 2 points a side and no negative margin, got {points} and {margin:g}")
    paths = (left, right, third)
    given = require_runs(paths, model)
    runs = transformed(given, align, False)
    where, limits = Where((model,) * 3, device, is_whole(runs, along)), Limits(split, max_dev, max_test, max_train)
    choice, own = tasks_of(runs, [task] if task else (), data_dir)[0]
    settings: dict[str, Any] = {"ends": [identity(run) for run in given], "points": points, "margin": margin, "align": align}
    settings |= {"task": choice.task, "data": choice.load().digest, "limits": vars(limits), "whole": where.whole}
    del given
    runs = list(map(without_weights, runs))

    def work() -> Found:
        stage = scene(runs, choice, own, where, spend=True)
        flat = through(gram(stage.ends))
        spots = flat.grid(points, margin)
        weights = [flat.coefficients(*spot) for spot in spots]
        rows = measure(
            stage, list(range(len(spots))), limits, out_dir / "state", stage.ends, lambda number: weights[int(number)], "plane"
        )
        kept = records(rows, {"task": choice.task}, stage.form.metric)
        kept = [{**row, "kind": "plane", "u": spots[int(row["x"])][0], "v": spots[int(row["x"])][1]} for row in kept]
        first = [row for row in kept if row["split"] == kept[0]["split"]]
        names = [describe(path) for path in paths]
        figures.save(out_dir / "figures/plane.png", lambda f: figures.draw_plane(f, first, flat.corners, names), (9.0, 3.8))
        low, high = min(first, key=lambda row: row["loss"]), max(first, key=lambda row: row["loss"])
        extremes = {
            "lowest": low,
            "highest": high,
            "corners": flat.corners,
            "metric": stage.form.metric,
            "split": first[0]["split"],
        }
        return {"plane": extremes}, kept

    facts = Kept(out_dir, config_yaml, overwrite, tag, PROGRAM).once("plane", settings, work)["plane"]
    table = Table(f"{facts['split']} loss", "u", "v", "loss", facts["metric"])
    for name in ("lowest", "highest"):
        row = facts[name]
        table.add_row(name, *("" if row[key] is None else f"{row[key]:.4f}" for key in ("u", "v", "loss", "value")))
    output().print(table)
    output().print(f"{points} x {points} points; figure in {out_dir / 'figures/plane.png'}", soft_wrap=True)
