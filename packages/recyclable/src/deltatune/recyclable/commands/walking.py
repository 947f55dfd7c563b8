"""`interpolate`: score the straight line between two tuned models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.combining import require_one_space
from deltatune.core.data import Task
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate
from deltatune.core.files import write_text
from deltatune.core.formats import Format
from deltatune.core.paths import End, end_of, grid, walk
from deltatune.core.reuse import TunedRun, open_run
from deltatune.recyclable.commands.results import Found, Kept
from deltatune.recyclable.methods import identity
from deltatune.recyclable.paths import Point, best, summary, table
from deltatune.recyclable.tokenizers import compare, require_readable

Along = Literal["auto", "whole", "delta"]


@dataclass(frozen=True)
class _Ends:
    """A model at the left end, with both ends of its path."""

    tuned: Tuned
    form: Format
    task: Task
    left: End
    right: End


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
    found = _ends(runs, (left_model, right_model), loaded, whole, device)
    settings = {"left": ids[0], "right": ids[1], "task": choice.task, "data": loaded.digest, "points": points}
    settings |= {"along": "whole" if whole else "delta", "max_dev": max_dev, "max_test": max_test}
    settings |= {"bases": [run.saved.base for run in runs], "max_length": choice.max_length}

    def work() -> Found:
        measured = _measure(found, grid(points), max_dev, max_test)
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


def _ends(
    runs: tuple[TunedRun, TunedRun], models: tuple[str | None, str | None], task: Task, whole: bool, device: Device
) -> _Ends:  # fmt: skip
    backbone = runs[0].backbone(models[0], device)
    form = runs[0].format(backbone, task)
    if runs[1].labels != runs[0].labels:
        raise DeltatuneError(f"{runs[1].path}: its head knows other labels than that of {runs[0].path}; take runs of one task")
    if not whole:
        tuned = runs[0].attach(backbone)
        left = end_of(tuned)
        tuned.load(runs[1].saved.weights)
        right = end_of(tuned)
        tuned.load(runs[0].saved.weights)
        return _Ends(tuned, form, task, left, right)
    other = runs[1].backbone(models[1], "cpu")
    if backbone.tokenizer is not None and other.tokenizer is not None:
        require_readable(compare(backbone.tokenizer, other.tokenizer), other.name)
    right = end_of(runs[1].attach(other), with_base=True)
    del other
    tuned = runs[0].attach(backbone)
    return _Ends(tuned, form, task, end_of(tuned, with_base=True), right)


def _measure(found: _Ends, places: list[float], max_dev: int | None, max_test: int | None) -> list[Point]:
    parts = {"dev": found.task.dev[:max_dev], "test": found.task.test[:max_test]}
    encoded = {split: found.form.features(part) for split, part in parts.items() if part}
    if not encoded:
        raise DeltatuneError(f"task {found.task.name} has neither dev nor test examples to score a path on")

    def measure() -> dict[str, float]:
        numbers: dict[str, float] = {}
        for split, features in encoded.items():
            scores = evaluate(found.tuned, found.form, parts[split], features)
            numbers |= {f"{split}_performance": scores.value, f"{split}_loss": scores.loss}
        return numbers

    return [Point(**row) for row in walk(found.tuned, [found.left, found.right], places, measure)]
