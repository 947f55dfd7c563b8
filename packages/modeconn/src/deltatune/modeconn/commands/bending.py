"""`curve`: find a curve of low loss between two tuned models, and evaluate it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from deltatune.core import checkpoint
from deltatune.core.backbone import Device
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import Tracker, tune_and_show, tuning
from deltatune.core.data import short_name
from deltatune.modeconn import figures
from deltatune.modeconn.bending import Begin, Bend
from deltatune.modeconn.bookkeeping import places
from deltatune.modeconn.commands.shown import PROGRAM, show_path
from deltatune.modeconn.curves import EVEN_VALIDATION, Kind, curve
from deltatune.modeconn.endpoints import describe, identity, in_one_space, require_runs, transformed, tuned_like
from deltatune.modeconn.scenes import Where, scene, without_weights
from deltatune.modeconn.sweeps import Limits, best_of, measure, records, statistics, write

# What the two ends decide themselves.
OF_THE_ENDS = ("model", "delta", "also", "start", "other_base", "init_seed")


@sharing(tuning, without=OF_THE_ENDS, optional=True)
def curve_(
    left: Path,
    right: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    kind: Kind = "bezier",
    bends: int = 1,
    begin: Begin = "line",
    begin_std: float = 0.02,
    begin_seed: int = 0,
    draws: int = 1,
    reduction: Literal["mean", "sum"] = "mean",
    validate_at: list[float] | None = None,
    points: int = 26,
    align: bool = False,
    model: str | None = None,
    max_length: int | None = None,
    tag: str = "",
    log_with: Tracker | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Find a curve of low loss between two tuned models by training its control points, then evaluate it like a line.

    The ends stay fixed. The control points and the model in the middle of the curve are kept as delta folders (`controls/1` and
    on, `delta`), the evaluation in `sweep`.

    Args:
        left: a run, RUN@STEP, a delta folder, an adapter folder of PEFT, or a Hugging Face model folder; t = 0.
        right: another of the same kind and settings; t = 1.
        out_dir: folder of the run.
        config_yaml: filled in by the program.
        kind: bezier, or polychain for straight pieces.
        bends: number of control points; 1 is the quadratic curve of the paper's experiments.
        begin: the control points start on the line (line), all in its middle (middle, as published for whole models), or random
            values (random, as published for deltas).
        begin_std: standard deviation of a random start.
        begin_seed: of a random start.
        draws: places t drawn in an update; published 1 for deltas, 3 for whole models.
        reduction: mean or sum of their losses; the published program took the sum.
        validate_at: places whose mean dev score selects; 0.25, 0.5 and 0.75 by default.
        points: places of the evaluation, both ends included.
        align: first undo the symmetries of the right end (see `walk`).
        model: where the base is now, if not where the left run found it.
        max_length: longest input in tokens; that of the left run by default.
        tag: a word of yours that goes into the records.
        log_with: also log to this tracker, below out_dir.
        overwrite: throw away a run that is in out_dir.
    """
    given = require_runs((left, right), model)
    runs = transformed(given, align, False)
    device: Device = options.get("device") or "auto"
    where = Where((model, model), device, False)
    config = tuned_like(runs[0], model, {"max_length": max_length, **options})
    ends = in_one_space(runs, where)
    ids = [identity(run) for run in given]
    spots = tuple(validate_at or EVEN_VALIDATION)
    method = Bend(ends[0], ends[1], ids, out_dir, kind, bends, begin, begin_std, begin_seed, draws, reduction, spots)
    tune_and_show(config, out_dir, {"command": f"{PROGRAM} curve", "tag": tag}, config_yaml, overwrite, log_with, method)
    controls = [checkpoint.read(out_dir / "controls" / str(number + 1)) for number in range(bends)]
    last = runs[1].saved if ends[1] is runs[1].saved.weights else replace(runs[0].saved, weights=dict(ends[1]), digest=None)
    like, stops = runs[0], [runs[0].saved, *controls, last]
    runs = [without_weights(replace(like, saved=replace(saved, about=like.saved.about))) for saved in stops]
    choice, limits = replace(config.task, half=None), Limits("eval")
    shape, settings = curve(kind, bends), {"controls": [control.digest for control in controls], "ends": ids, "points": points}
    settings |= {"kind": kind, "task": config.identity()["task"]}

    del given, ends, method, last, like, stops, controls  # a sweep holds each point of the curve once

    def work() -> Found:
        stage = scene(runs, choice, None, where, spend=True)
        rows = measure(stage, places(points), limits, out_dir / "sweep" / "state", coefficients=shape)
        metric = stage.form.metric
        found = statistics(rows, metric, stage.ends, shape) | {"metric": metric, "points": points}
        found |= write(rows, out_dir / "sweep", short_name(choice.task), metric) | {"best": best_of(rows, metric)}
        kept = records(rows, {"task": choice.task, "left": describe(left), "right": describe(right), "curve": kind}, metric)
        title = (
            f"{kind} of {bends} bend{'s' * (bends > 1)} from {describe(left)} to {describe(right)} on {short_name(choice.task)}"
        )
        figures.save(out_dir / "sweep/figures/profile.png", lambda figure: figures.draw_profile(figure, kept, title))
        return {"paths": {choice.task: found}}, kept

    facts = Kept(out_dir / "sweep", config_yaml, overwrite, tag, PROGRAM).once("curve sweep", settings, work)
    show_path(facts["paths"], out_dir / "sweep")
