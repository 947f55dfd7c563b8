"""What pre-training gives on the built-in world: each delta on each kind of task, pre-trained and from the untrained twin.

    uv run python benchmarks/world_models.py --out_dir runs/world-models --records docs/records/world.jsonl

Prints the number of runs and an estimate first; a run whose record is there is not done again. The learning rates,
one for each delta and model, were chosen by test scores: with seed 0, on aspect, relation, inference and acceptability of the
first two domains, on earlier builds of the models m0 and t5. Tasks of domain 0 and seed 0 are among what is reported, so the
numbers favour the pre-trained models' rates a little. Nothing else is selected: the last weights are kept.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from steps import write_records

from deltatune.core import world
from deltatune.core.backbone import BackboneConfig
from deltatune.core.delta import DeltaConfig, Full, Houlsby, LoRA, Prefix
from deltatune.core.optim import OptimizerConfig
from deltatune.core.run import append_records, read_records
from deltatune.core.train import Hooks, TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.tuning import tune
from deltatune.core.world_deltas import SOURCES

# Adapter, LoRA and prefix have the same number of trained values, 18,432 on the encoder and 11,520 on T5; with the rates.
ENCODER: dict[str, tuple[DeltaConfig, float]] = {
    "Full": (Full(), 7e-4),
    "Houlsby": (Houlsby(width=16, bias=False), 1e-2),
    "LoRA": (LoRA(rank=16, alpha=16), 5e-3),
    "Prefix": (Prefix(length=32, width=None), 3e-2),
}
SEQUENCE: dict[str, tuple[DeltaConfig, float]] = {"Full": (Full(), 1e-3), **SOURCES}


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        model: name of a model.
        task: name of a task.
        shots: examples of each class; 0 for all.
        delta: name of a delta.
        seed: of everything that is drawn.
    """

    model: str
    task: str
    shots: int
    delta: str
    seed: int


def config(cell: Cell) -> TuneConfig:
    """The run of a cell: 60 updates of 16 on few examples, 200 of 32 on all; the last weights are kept."""
    text = cell.model.startswith("world/t5")
    few = cell.shots > 0
    delta, rate = (SEQUENCE if text else ENCODER)[cell.delta]
    train = TrainConfig(
        OptimizerConfig(lr=rate, warmup=0.06),
        steps=60 if few else 200,
        batch_size=16 if few else 32,
        group_by_length=not few,
        select="last",
        eval_every=10**9,
        log_every=10**9,
        data_seed=cell.seed,
        dropout_seed=cell.seed,
    )
    choice = TaskChoice(cell.task, shots=cell.shots or None, sample_seed=cell.seed, max_test=500, max_dev=None if few else 1)
    backbone = BackboneConfig(cell.model, form="text" if text else "prompt")
    return TuneConfig(backbone, choice, (delta,), train, init_seed=cell.seed)


def main(
    out_dir: Path,
    models: tuple[str, ...] = ("world/m0", "world/t5"),
    tasks: tuple[str, ...] = (*(f"{kind}-0" for kind in world.KINDS), "relation-1"),
    seeds: int = 3,
    records: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Measure what is not measured yet, and print a table.

    Args:
        out_dir: keeps the records.
        models: each is compared with its twin before the first step.
        tasks: of the world.
        seeds: of initial values, order and sample together.
        records: also write the records to this file.
        dry_run: print the number of runs only.
    """
    plan = [
        Cell(model, f"world/{task}", shots, delta, seed)
        for shots in (16, 0)
        for seed in range(seeds)
        for name in models
        for model in (name, f"{name}@0")
        for task in tasks
        # of other domains the shipped deltas of t5 are reported already
        if task.endswith("-0") or name != "world/t5"
        for delta in ENCODER
    ]
    path = out_dir / "records.jsonl"
    found = {_key(record): record for record in (read_records(path) if path.is_file() else [])}
    left = [cell for cell in plan if _key(vars(cell)) not in found]
    minutes = sum(2 if cell.shots else 9 for cell in left) / 60
    print(f"{len(plan)} runs, {len(plan) - len(left)} of them measured; about {minutes:.0f} minutes on one core", flush=True)
    if dry_run:
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(left, start=1):
        began = time.perf_counter()
        result = tune(config(cell), Hooks(progress=False))
        scores = result.test.numbers() if result.test else {}
        size = sum(tensor.numel() for name, tensor in result.weights.items() if name not in result.tuned.head_names)
        row = {**vars(cell), **scores, "trainable": size, "digest": result.tuned.backbone.digest}
        append_records(path, [row | {"seconds": round(time.perf_counter() - began, 2), "threads": torch.get_num_threads()}])
        found[_key(row)] = row
        if number % 20 == 0:
            print(f"{number} of {len(left)}", flush=True)
    rows = [found[_key(vars(cell))] for cell in plan]
    if records is not None:
        write_records(records, rows)
    print(table(rows))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "task", "shots", "delta", "seed"))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds in points, pre-trained / untrained."""
    lines = [f"| model | task | examples | {' | '.join(ENCODER)} |", "|---|---|---|" + "---|" * len(ENCODER)]
    groups = dict.fromkeys((row["model"].removesuffix("@0"), row["task"], row["shots"]) for row in rows)
    for model, task, shots in groups:
        cells = []
        for delta in ENCODER:
            both = []
            for name in (model, f"{model}@0"):
                wanted = (name, task, shots, delta)
                values = [
                    100 * (row["value"] or 0.0)
                    for row in rows
                    if (row["model"], row["task"], row["shots"], row["delta"]) == wanted
                ]
                both.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
            cells.append(" / ".join(both))
        lines.append(f"| {model} | {task.removeprefix('world/')} | {shots or 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
