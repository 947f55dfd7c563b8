"""`walk`: what lies on the straight line between two tuned models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from deltatune.core import checkpoint
from deltatune.core.backbone import Device
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.data import short_name
from deltatune.core.errors import DeltatuneError
from deltatune.core.groups import gaps, grouping
from deltatune.core.paths import End
from deltatune.core.reuse import TunedRun
from deltatune.core.weights import lerp
from deltatune.modeconn import figures
from deltatune.modeconn.bookkeeping import places
from deltatune.modeconn.commands.shown import PROGRAM, show_path
from deltatune.modeconn.endpoints import about_of, describe, identity, require_runs, transformed
from deltatune.modeconn.profiles import profile
from deltatune.modeconn.scenes import Along, Scene, Where, is_whole, scene, tasks_of, weights_of, without_weights
from deltatune.modeconn.sweeps import Limits, Row, Split, best_of, measure, of_split, records, splits_of, statistics, write

Lines = Literal["block", "part", "tensor"]


def walk(
    left: Path,
    right: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    points: int = 26,
    split: Split = "eval",
    task: str | list[str] | None = None,
    data_dir: Path | None = None,
    align: bool = False,
    product: bool = False,
    lines: Lines | None = None,
    along: Along = "auto",
    save_best: bool = False,
    model: str | None = None,
    right_model: str | None = None,
    device: Device = "auto",
    max_dev: int | None = None,
    max_test: int | None = None,
    max_train: int | None = None,
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Evaluate the straight line between two tuned models, point by point and example by example.

    Ends of different tasks are evaluated on both, each task with the output tensors of its own end. The result has `result.csv`,
    the lists of examples that are wrong, right, and newly so at each point, statistics in run.json, and a figure.

    Args:
        left: a run, RUN@STEP, a delta folder, an adapter folder of PEFT, or a Hugging Face model folder; the place 0.
        right: another of the same kind and settings; the place 1.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        points: places at equal distances, both ends included (published: 26; 6 on training data).
        split: eval is dev and test; or one of dev, test, train.
        task: a task or a list of tasks to evaluate on; those of the ends by default.
        data_dir: where the task's files are now, if not where they were.
        align: first undo the symmetries of the right end: the order of an adapter's hidden units, the rotation of LoRA's factors.
        product: move along LoRA's update B A instead of its factors.
        lines: instead of one line, one for each block, part or tensor, along which this group alone moves.
        along: whole moves base, delta and head; delta moves delta and head on the left base; auto takes whole where the two were
            tuned on different bases.
        save_best: keep the model at the place that is best on dev, as the delta folder `best`.
        model: where the left base is now, if not where its run found it.
        right_model: the same for the right base; the left one's by default.
        device: where to compute.
        max_dev: use the first N dev examples.
        max_test: use the first N test examples.
        max_train: with --split train, use the first N training examples.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    given = require_runs((left, right), model)
    runs = transformed(given, align, product)
    where = Where((model, right_model or model), device, is_whole(runs, along))
    limits, chosen = (
        Limits(split, max_dev, max_test, max_train),
        tasks_of(runs, [task] if isinstance(task, str) else task or (), data_dir),
    )
    if lines and where.whole:
        raise DeltatuneError("--lines: where the bases move, groups of the delta alone say little; give runs of one base")
    if save_best and (where.whole or product or lines or any(own is not None for _, own in chosen)):
        raise DeltatuneError("--save_best keeps a delta on the left base; leave out --product and --lines, give runs of one task")
    tasks = {choice.task: choice.load().digest for choice, _ in chosen}
    between: dict[str, Any] = {"left": identity(given[0]), "right": identity(given[1]), "align": align}
    settings = {**between, "points": points, "whole": where.whole, "tasks": tasks, "product": product, "lines": lines}
    del given  # else every end would be in memory twice
    runs = list(map(without_weights, runs))
    settings |= {"limits": vars(limits), "max_length": [choice.max_length for choice, _ in chosen], "save_best": save_best}

    def work() -> Found:
        numbers: dict[str, Any] = {}
        kept: list[dict[str, Any]] = []
        for number, (choice, own) in enumerate(chosen, start=1):
            # An end that cannot be read again is given away with the last task, unless its best point is to be kept.
            stage = scene(runs, choice, own, where, spend=number == len(chosen) and not save_best)
            folder = out_dir if len(chosen) == 1 else out_dir / short_name(choice.task).replace("/", "-")
            look = partial(_lines, by=lines) if lines else partial(_line, save_best=save_best, runs=runs, between=between)
            found, rows = look(stage, places(points), limits, (out_dir, folder))
            numbers[choice.task] = found
            kept += [{**row, "left": describe(left), "right": describe(right)} for row in rows]
            stage.tuned.detach()
        return {"paths": numbers}, kept

    facts = Kept(out_dir, config_yaml, overwrite, tag, PROGRAM).once("walk", settings, work)
    show_path(facts["paths"], out_dir)


Folders = tuple[Path, Path]  # of the whole result, and of this task


def _line(
    stage: Scene,
    where: Sequence[float],
    limits: Limits,
    folders: Folders,
    save_best: bool,
    runs: Sequence[TunedRun],
    between: Mapping[str, Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = measure(stage, where, limits, folders[0] / "state")
    metric = stage.form.metric
    found = statistics(rows, metric, stage.ends) | {"metric": metric, "points": len(where)}
    found |= write(rows, folders[1], short_name(stage.choice.task), metric)
    found["best"] = best_of(rows, metric)
    kept = records(rows, {"task": stage.choice.task}, metric)
    title = f"{describe(runs[0].path)} to {describe(runs[1].path)} on {short_name(stage.choice.task)}"
    figures.save(folders[1] / "figures/profile.png", lambda figure: figures.draw_profile(figure, kept, title))
    if save_best and found["best"]:
        x = found["best"]["x"]
        about = about_of(runs[0], stage.tuned.backbone, stage.form, stage.choice)
        stage.ends.clear()  # as differences to the base the ends are read again
        weights = lerp(weights_of(runs[0]), weights_of(runs[1]), x)
        checkpoint.write(
            folders[0] / "best", replace(runs[0].saved, weights=weights, about={**about, "between": {**between, "x": x}})
        )
    return found, kept


def _lines(
    stage: Scene, where: Sequence[float], limits: Limits, folders: Folders, by: Lines
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One line for each group of tensors, along which it alone moves."""
    left, right = stage.ends[0].deltas, stage.ends[-1].deltas
    group, metric = grouping(by, stage.tuned.backbone.sites), stage.form.metric
    far = {gap.group: gap.l2 for gap in gaps(left, right, group)}
    found, kept = [], []
    for name, distance in far.items():
        if not distance:
            continue
        end = End({key: right[key] if group(key) == name else value for key, value in left.items()})
        ends = [stage.ends[0], end]
        rows = measure(stage, where, limits, folders[0] / "state", ends, name=name)
        found.append({"group": name, "distance": distance, **_summary(rows)})
        kept += records(rows, {"task": stage.choice.task, "group": name}, metric)
    split = splits_of(rows)[0]
    shown = [{"group": row["group"], "barrier": row[split]["barrier"]} for row in found]
    height = max(2.0, 0.2 * len(shown) + 0.8)
    figures.save(folders[1] / "figures/groups.png", lambda figure: figures.draw_groups(figure, shown), (6.0, height))
    return {"metric": metric, "points": len(where), "groups": found}, kept


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Barrier of the loss and drop of the score of each split, and both at the end of the line."""
    found = {}
    for split in splits_of(rows):
        own = of_split(rows, split)
        where, losses, scores = [r.x for r in own], [r.loss or 0.0 for r in own], [r.value or 0.0 for r in own]
        found[split] = {"barrier": profile(where, losses).barrier, "drop": profile(where, scores).drop}
        found[split] |= {"loss_at_the_end": losses[-1], "score_at_the_end": scores[-1]}
    return found
