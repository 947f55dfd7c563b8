"""`interpolate`: score the straight line between two tuned models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.combining import require_one_space
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import write_text
from deltatune.core.paths import grid
from deltatune.core.reuse import open_run
from deltatune.recyclable.between import ends_between, measure
from deltatune.recyclable.commands.results import Found, Kept
from deltatune.recyclable.methods import identity
from deltatune.recyclable.paths import best, summary, table

Along = Literal["auto", "whole", "delta"]


def interpolate(
    left: Path,
    right: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    along: Along = "auto",
    points: int = 26,
    left_model: str | None = None,
    right_model: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    device: Device = "auto",
    max_dev: int | None = None,
    max_test: int | None = None,
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Score the straight line between two tuned models on dev and test: `result.csv`, the loss barrier, the drop.

    Args:
        left: a run, RUN@STEP or a delta folder.
        right: another of the same kind and settings, tuned on the same task.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        along: whole moves base, delta and head together; delta moves delta and head on the left base; auto takes whole where the
            two were tuned on different bases.
        points: places at equal distances, both ends included (published: 26).
        left_model: where the left base is now, if not where its run found it.
        right_model: the same for the right base.
        task: another task than the left run's.
        data_dir: where the task's files are now, if not where they were.
        device: where to compute.
        max_dev: use the first N dev examples.
        max_test: use the first N test examples.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    runs = open_run(left), open_run(right)
    ids = identity(left), identity(right)
    one_base = runs[0].saved.base["digest"] == runs[1].saved.base["digest"]
    if one_base and ids[0]["digest"] == ids[1]["digest"]:
        raise DeltatuneError(f"--left {left} and --right {right} hold the same delta; a path needs two ends")
    require_one_space(runs[0].saved, runs[1].saved, "interpolate", other_base=True)
    whole = along == "whole" or (along == "auto" and not one_base)
    choice = runs[0].task_choice(task, data_dir)
    loaded = choice.load()
    found = ends_between(runs, (left_model, right_model), loaded, whole, device)
    settings = {"left": ids[0], "right": ids[1], "task": choice.task, "data": loaded.digest, "points": points}
    settings |= {"along": "whole" if whole else "delta", "max_dev": max_dev, "max_test": max_test}
    settings |= {"bases": [run.saved.base for run in runs], "max_length": choice.max_length}

    def work() -> Found:
        measured = measure(found, grid(points), max_dev, max_test)
        metric = found.form.metric
        write_text(out_dir / "result.csv", table(measured, metric="acc" if metric == "accuracy" else metric))
        common = {"kind": "path", "task": choice.task, "along": settings["along"], "metric": metric}
        chosen = best(measured)
        numbers: dict[str, Any] = {"path": summary(measured), "best": vars(chosen) if chosen else None}
        return numbers, [{**common, **vars(point)} for point in measured]

    facts = Kept(out_dir, config_yaml, overwrite, tag).once("interpolate", settings, work)
    console = output()
    for name, value in facts["path"].items():
        console.print(f"{name.replace('_', ' ')}: {value:.4f}")
    console.print(f"{points} points in {out_dir / 'result.csv'}", soft_wrap=True)
