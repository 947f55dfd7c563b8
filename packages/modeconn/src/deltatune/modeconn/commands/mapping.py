"""`tune` with a data map, `cartography record` and `cartography combine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import Tracker, tune_and_show, tuning
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate
from deltatune.core.files import held, read_json, write_json, write_text
from deltatune.core.progress import ProgressBar
from deltatune.core.reuse import open_run
from deltatune.core.run import digest_of
from deltatune.core.tune_config import TuneConfig
from deltatune.modeconn import datamap, figures
from deltatune.modeconn.bookkeeping import FILES
from deltatune.modeconn.commands.shown import PROGRAM
from deltatune.modeconn.confidence import Condition, confidences
from deltatune.modeconn.datamap import FILE, START, Course


@sharing(tuning)
def tune(
    out_dir: Path,
    config_yaml: SavedConfig,
    cartography: bool = False,
    condition: Condition = "gold",
    tag: str = "",
    log_with: Tracker | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Tune a task, on all or on one of two halves of its training data, and record its data map if asked.

    Initial values and the order of data have seeds of their own. The same command run again goes on where an interrupted one
    stopped, and does nothing where it had finished.

    Args:
        out_dir: folder of the run.
        config_yaml: filled in by the program.
        cartography: keep a snapshot after every epoch, and record for each training example how sure of its label they are.
        condition: see `cartography record`.
        tag: a word of yours that goes into the records.
        log_with: also log to this tracker, below out_dir.
        overwrite: throw away a run that is in out_dir.
    """
    config = tuning(**options)
    if cartography:
        config = with_epochs(config)
    tune_and_show(config, out_dir, {"command": f"{PROGRAM} tune", "tag": tag}, config_yaml, overwrite, log_with)
    if cartography:
        record(out_dir, condition, device=config.backbone.device, overwrite=overwrite)


def with_epochs(config: TuneConfig) -> TuneConfig:
    """The same run with a snapshot after every epoch.

    Raises:
        DeltatuneError: other snapshots are asked for as well, or the run is shorter than an epoch.
    """
    if config.train.snapshots is not None:
        raise DeltatuneError("--cartography keeps a snapshot after every epoch; leave --train.snapshots out")
    rows = len(config.task.load().train)
    per_epoch = config.train.batches([{"input_ids": [0]}] * rows, lambda features: {}).per_epoch(config.train.accumulation)
    if config.train.total(per_epoch) < per_epoch:
        raise DeltatuneError(f"--cartography: an epoch has {per_epoch} updates, and the run only {config.train.total(per_epoch)}")
    return replace(config, train=replace(config.train, snapshots=per_epoch))


def record(
    run: Path, condition: Condition = "gold", data_dir: Path | None = None, device: Device = "auto", overwrite: bool = False
) -> None:
    """Record the data map of a run: at each of its snapshots, which training examples are right, and how sure it is of them.

    It is kept as `cartography.json` in the run, by the number of the example in the training data, with a figure.

    Args:
        run: with snapshots, such as `tune --cartography` leaves them.
        condition: the tokens before the label of a text are those of the gold answer, or those that the model itself generates
            (greedy, as published).
        data_dir: where the task's files are now, if not where they were.
        device: where to compute.
        overwrite: record again what is recorded.
    """
    steps = sorted(int(path.name) for path in (run / "snapshots").glob("*") if path.name.isdigit())
    if not steps:
        raise DeltatuneError(f"{run}: no snapshots to record a data map from; tune with --cartography or --train.snapshots")
    settings = {
        "condition": condition,
        "snapshots": [checkpoint.describe(run / "snapshots" / str(s))["tensors_sha256"] for s in steps],
    }
    about = run / "cartography_settings.json"
    with held(run):
        if (run / FILE).is_file() and about.is_file() and not overwrite and read_json(about) == settings:
            output(error=True).print(f"{run / FILE} is recorded already; --overwrite does it again", soft_wrap=True)
        else:
            courses = _courses(run, steps, condition, data_dir, device)
            rows = [asdict(datamap.hardness(course)) for course in courses.values()]
            figures.save(run / "figures/data-map.png", lambda figure: figures.draw_map(figure, rows), (5.0, 4.0))
            write_json(run / FILE, datamap.record(courses))
            write_json(about, settings)
    _show_map(run)


def _courses(run: Path, steps: Sequence[int], condition: Condition, data_dir: Path | None, device: Device) -> dict[str, Course]:
    opened = open_run(Path(f"{run}@{steps[0]}"))
    task = opened.task_choice(None, data_dir).load()
    backbone = opened.backbone(device=device)
    form, tuned = opened.format(backbone, task), opened.attach(backbone)
    features = form.features(task.train)
    acc: list[list[float]] = [[] for _ in task.train]
    sure: list[list[float]] = [[] for _ in task.train]
    with ProgressBar("data map", len(steps), 0, True) as bar:
        for number, step in enumerate(steps, start=1):
            tuned.load(checkpoint.read(Path(f"{run}@{step}")).weights)
            scores = evaluate(tuned, form, task.train, features).per_example
            if scores is None:
                raise DeltatuneError(
                    f"metric {form.metric} of task {task.name} scores no single examples; a data map needs accuracy"
                )
            now = confidences(tuned, form, task.train, features, condition)
            for row, (right, value) in enumerate(zip(scores, now, strict=True)):
                acc[row].append(float(right == 1))
                sure[row].append(value)
            bar.advance(number, f"step {step}", line=False)
    return {str(row): Course(tuple(acc[row]), tuple(sure[row])) for row in range(len(acc))}


def _show_map(run: Path) -> None:
    courses = datamap.read_map(run)
    rows = [datamap.hardness(course) for course in courses.values()]
    table = Table("statistic", "mean", "least", "greatest")
    for name in ("confidence", "variability", "correctness", "turns"):
        values = [float(getattr(row, name)) for row in rows]
        table.add_row(name, f"{fmean(values):.4f}", f"{min(values):.4f}", f"{max(values):.4f}")
    output().print(table)
    epochs = len(next(iter(courses.values())).acc)
    output().print(f"{len(rows)} training examples over {epochs} snapshots in {run / FILE}", soft_wrap=True)


def combine(map: Path, path: Path, out_dir: Path, config_yaml: SavedConfig, tag: str = "", overwrite: bool = False) -> None:
    """How hard the training examples are that are forgotten along a path, that are remembered, and that stay right.

    Args:
        map: a run with a data map, or its `cartography.json`.
        path: a walk over the same training examples (`walk --split train`).
        out_dir: folder of the result: `result.txt`, records.jsonl and a figure.
        config_yaml: filled in by the program.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    courses, file = datamap.read_map(map), path if path.is_file() else path / FILES["train"]
    if not file.is_file():
        raise DeltatuneError(f"{path}: no {file.name}; walk over the training examples first (`walk --split train`)")
    lists = read_json(file)
    settings = {"map": datamap.record(courses), "path": lists}

    def work() -> Found:
        groups = datamap.combine(courses, lists)
        rows = [asdict(group) for group in groups]
        write_text(out_dir / "result.txt", datamap.text(groups))
        figures.save(out_dir / "figures/forgotten.png", lambda figure: figures.draw_forgotten(figure, rows))
        return {"groups": rows}, [{"kind": "forgetting", **row} for row in rows]

    identity = {name: digest_of(value) for name, value in settings.items()}
    facts = Kept(out_dir, config_yaml, overwrite, tag, PROGRAM).once("cartography combine", identity, work)
    table = Table("step", "examples", "number", "confidence", "variability", "correctness", "turns")
    for row in facts["groups"]:
        if row["start"] != START:
            cells = ["undefined" if row[name] is None else f"{row[name]:.4f}" for name in _STATISTICS]
            table.add_row(f"{row['start']} to {row['end']}", row["name"], str(row["count"]), *cells)
    output().print(table)


_STATISTICS = ("confidence", "variability", "correctness", "turns")
