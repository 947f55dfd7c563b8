"""`approximate`: learn the subspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rich.table import Table

from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.tune import Tracker, tuning
from deltatune.core.delta import Head
from deltatune.core.optim import OptimizerConfig
from deltatune.core.run import read_records
from deltatune.core.train import TrainConfig
from deltatune.subspace.commands.originals import chosen_tasks
from deltatune.subspace.objective import Objective
from deltatune.subspace.place import Place
from deltatune.subspace.stage1 import Dtype, Stage1, loaded, opened
from deltatune.subspace.stage1 import approximate as train_subspace

# The published rule: Adafactor without schedule, nothing clipped.
APPROXIMATION = TrainConfig(
    OptimizerConfig("adafactor", schedule="constant", max_grad_norm=None), batch_size=8, eval_every=100, save_every=100
)


def approximate(
    init: Path,
    solutions: list[Path],
    out_dir: Path,
    config_yaml: SavedConfig,
    tasks: list[str] | None = None,
    split: str | None = None,
    family: str = "gym/",
    only: list[str] | None = None,
    k: int = 4,
    objective: Objective = Objective(),  # noqa: B008 - frozen
    train: TrainConfig = APPROXIMATION,
    lr: float | None = None,
    seed: int = 0,
    data_seed: int | None = None,
    train_lines: int | None = None,
    dev_lines: int | None = None,
    max_dev: int | None = None,
    mixtures: int = 2,
    model: str | None = None,
    data_dir: Path | None = None,
    device: Device = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    dtype: Dtype = "fp32",
    shard: bool = True,
    tag: str = "",
    log_with: Tracker | None = None,
    overwrite: bool = False,
) -> None:
    """Learn the subspace in which the solutions of one task, or of many, meet (stage 1).

    Each delta gets an encoder into k dimensions and a decoder out of them. Every solution is rebuilt from its own point, and
    random mixtures of a task's points, decoded into any delta, have to solve the task. The same command goes on where it was
    interrupted.

    Args:
        init: folder made by `make-init`.
        solutions: roots of solutions made by `train-delta`: '[runs/original]'; several give several solutions of each task.
        out_dir: folder of the run; the subspace is in it.
        config_yaml: filled in by the program.
        tasks: source tasks, as a list; all that have solutions by default.
        split: or the source tasks of a split: a JSON file, or train_60_unseen_rest for the published one.
        family: what stands before the names of the split.
        only: names of the deltas; all of the initial values by default.
        k: dimensions of the subspace (published: 4 for one task, 100 for 60).
        objective: weights and kinds of the terms, how mixtures are drawn.
        train: steps, batch size, schedule, selection.
        lr: learning rate, short for --train.optimizer.lr (published: 1e-4); 1e-3 by default.
        seed: of the first values of the projections.
        data_seed: of the order of examples, of the mixtures and of dropout; wins over the seeds of train.
        train_lines: training examples of each task: the first ones, of a smaller task all of them again and again.
        dev_lines: the same of dev.
        max_dev: use the first N dev examples of each task.
        mixtures: seeded mixtures that are scored beside the centroid and each delta's own point.
        model: where the model is now, if not where it was.
        data_dir: where the tasks' files are now, if not where they were.
        device: where to compute.
        precision: bf16 computes the model's matrix products in bfloat16.
        dtype: fp32, or bf16 to keep and train the projections in half the memory.
        shard: of several processes, each holds its share of the projections and of the optimizer's state; false: each holds all.
        tag: a word of yours that goes into the records.
        log_with: also log to this tracker, below out_dir.
        overwrite: throw away a run that is in out_dir.
    """
    named = chosen_tasks(tasks, split, "sources", family) if tasks or split else []
    settings = tuning(model="", task="", delta=Head(), train=train, lr=lr, data_seed=data_seed, precision=precision).train
    config = Stage1(
        init, tuple(solutions), tuple(named), tuple(only or ()), k, objective, with_rate(settings, 1e-3), seed, train_lines,
        dev_lines, mixtures, data_dir, model, device, dtype, shard, max_dev,
    )  # fmt: skip
    facts = run_stage1(config, Place(out_dir, config_yaml, overwrite, tag, device), log_with)
    _show(facts, out_dir)


def run_stage1(config: Stage1, place: Place, log_with: Tracker | None = None) -> dict[str, Any]:
    """`approximate` into a folder; what `run.json` says at the end."""
    from deltatune.core.cli.tune import _Tracker

    initial, found, digests = opened(config)
    tracker = _Tracker(log_with, place.out_dir) if log_with else None

    def work(folder: Any, processes: Any) -> Any:
        inputs, space = processes.agree(lambda: loaded(config, initial, found, processes))
        return train_subspace(config, inputs, space, folder, processes, tracker)

    try:
        return place.once("approximate", config.identity(list(found), digests), work)
    finally:
        if tracker is not None:
            tracker.close()


def with_rate(train: TrainConfig, rate: float) -> TrainConfig:
    """`train` with a learning rate where it has none."""
    return train if train.optimizer.lr is not None else replace(train, optimizer=replace(train.optimizer, lr=rate))


def _show(facts: dict[str, Any], out_dir: Path) -> None:
    show_points(facts, out_dir)
    output().print(
        f"{facts['trainable']:,} values in {facts['k']} dimensions; kept: step {facts['step']} in {out_dir / 'subspace'}; "
        f"training took {facts['train_seconds']:.1f} s",
        soft_wrap=True,
    )


def show_points(facts: Mapping[str, Any], out_dir: Path) -> None:
    """Print how every place does in every delta, how well solutions are rebuilt, and how far apart their points lie."""
    console = output()
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    records = [record for record in read_records(out_dir) if record["kind"] == "point"]
    split = "test" if any(record["split"] == "test" for record in records) else "dev"
    names = list(facts["sizes"])
    table = Table(f"point ({split})", *(f"as {name}" for name in names))
    for place in dict.fromkeys(record["place"] for record in records):
        row = []
        for name in names:
            values = [r["value"] or 0.0 for r in records if (r["split"], r["place"], r["delta"]) == (split, place, name)]
            row.append(f"{fmean(values):.4f}" if values else "")
        table.add_row(place, *row)
    console.print(table)
    rebuilt = {name: fmean(own[name] for own in facts["rebuilt"].values()) for name in names}
    errors = ", ".join(f"{name} {100 * value:.1f}%" for name, value in rebuilt.items())
    console.print(f"not rebuilt of the solutions: {errors}; mean distance of the points {fmean(facts['spread'].values()):.3f}")
