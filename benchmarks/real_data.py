"""Tunes deltas on real tasks with a real encoder and writes a table from the records.

    uv run python benchmarks/real_data.py --data_dir DATA --out_dir runs/real-data --tasks '[glue/rte]'

`--data_dir` holds the folders `glue` and `domain`. The encoder is the 22M-parameter one that the test group installs, or
`--model`. The list of runs and an estimate are printed first; a run that is finished is not done again, and an interrupted
one goes on.

Nothing is selected on the examples that are reported: the last weights are kept, and the learning rates are the defaults of
`deltatune tune`.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from steps import encoder, publish

from deltatune.core.backbone import BackboneConfig
from deltatune.core.delta import BitFit, DeltaConfig, Full, Houlsby, LoRA
from deltatune.core.files import read_json
from deltatune.core.pool import cores, run_jobs
from deltatune.core.run import read_records
from deltatune.core.train import TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.tuning import tune_to

FOLDER = {"chemprot": "domain", "acl-arc": "domain", "scicite": "domain", "scierc": "domain"}
DELTAS: dict[str, DeltaConfig] = {"LoRA": LoRA(), "Houlsby": Houlsby(), "BitFit": BitFit(), "Full": Full()}
TASKS = ["glue/sst-2", "glue/rte", "glue/cola", "glue/mrpc", "glue/sts-b", "chemprot", "acl-arc", "scicite", "scierc"]
EVERY_DELTA = ("glue/sst-2", "glue/rte", "chemprot")


def main(
    data_dir: Path,
    out_dir: Path,
    model: str | None = None,
    tasks: list[str] = TASKS,
    deltas: list[str] | None = None,
    seeds: int = 3,
    steps: int = 300,
    max_test: int | None = 1000,
    full: bool = False,
    table: Path | None = None,
    records: Path | None = None,
    workers: int | None = None,
    dry_run: bool = False,
) -> None:
    """Tune, and write a table.

    Args:
        data_dir: the folder that holds `glue` and `domain`.
        out_dir: where the runs go.
        model: a model folder.
        tasks: which tasks.
        deltas: which deltas; by default LoRA and Full, and on three tasks all four.
        seeds: of initial values, order and dropout together.
        steps: updates of 16 examples.
        max_test: test examples at most.
        full: three epochs of the training data and all test examples instead.
        table: also write the table to this file.
        records: also write the records that the table is made from to this file, the base named by its digest.
        workers: processes, among which the cores are divided; by default one for each core.
        dry_run: print the list and the estimate only.
    """
    base = model or encoder()
    plan = [
        (task, delta, seed)
        for task in tasks
        for delta in deltas or (DELTAS if task in EVERY_DELTA else ["LoRA", "Full"])
        for seed in range(seeds)
    ]
    left = sum(not (folder(out_dir, *item) / "delta").exists() for item in plan)
    share = workers or cores()
    minutes = left * steps / 300 * 2.2 / share  # 72 runs took 156 minutes of one thread
    print(f"{len(plan)} runs, {len(plan) - left} of them finished; about {minutes:.0f} minutes in {share} processes")
    if dry_run:
        return
    began = time.perf_counter()
    finished: list[Run] = []

    def report(run: Run, value: float | None) -> None:
        finished.append(run)
        minutes = (time.perf_counter() - began) / 60
        shown = "its process died; run the same command again" if value is None else f"{value:.4f}"
        print(f"[{len(finished)}/{len(plan)}, {minutes:.1f} min] {run.folder.name}: {shown}", flush=True)

    runs = [Run(config(base, data_dir, *item, steps, max_test, full), folder(out_dir, *item)) for item in plan]
    run_jobs(train, runs, share, report)
    if died := sum(not (run.folder / "delta").exists() for run in runs):
        sys.exit(f"{died} of {len(runs)} runs are not finished, so there is no table yet; run the same command again")
    found = [{**record, "base": base_digest(out_dir, *item)} for item in plan for record in results(out_dir, *item)]
    publish(found, rows(found), records, table)


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        config: what is done.
        folder: where it is kept.
    """

    config: TuneConfig
    folder: Path


def config(
    base: str, data_dir: Path, task: str, delta: str, seed: int, steps: int, max_test: int | None, full: bool
) -> TuneConfig:
    """The last weights are kept; rates are the defaults."""
    length = {"steps": 1, "epochs": 3.0} if full else {"steps": steps}
    train = TrainConfig(**length, select="last", eval_every=10**9, data_seed=seed, dropout_seed=seed, group_by_length=True,
                        precision="bf16", save_every=100, log_every=100)  # fmt: skip
    where = data_dir / FOLDER.get(task, "glue")
    choice = TaskChoice(task, where, max_dev=None if full else max_test, max_test=None if full else max_test)
    return TuneConfig(BackboneConfig(base, precision="bf16"), choice, (DELTAS[delta],), train, init_seed=seed)


def train(run: Run) -> float:
    """Tune, or find what is tuned; the value on test."""
    facts = tune_to(run.config, run.folder, {"command": "benchmarks/real_data.py"}, "", progress=False)
    return float(facts["scores"]["test"]["value"])


def folder(out_dir: Path, task: str, delta: str, seed: int) -> Path:
    """The folder of one run."""
    return out_dir / f"{task.replace('/', '-')}-{delta}-{seed}"


def results(out_dir: Path, task: str, delta: str, seed: int) -> list[dict[str, Any]]:
    """The final test scores of one run."""
    found = read_records(folder(out_dir, task, delta, seed))
    return [record for record in found if record["kind"] == "result" and record["split"] == "test"]


def base_digest(out_dir: Path, task: str, delta: str, seed: int) -> str:
    """The digest of the encoder that a run used."""
    return str(read_json(folder(out_dir, task, delta, seed) / "run.json")["base"]["digest"])


def rows(records: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds."""
    lines = [
        "| task | delta | trainable | test metric | mean | standard deviation | seeds | test examples | training s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, delta in dict.fromkeys((record["task"], record["deltas"][0]["kind"]) for record in records):
        found = [record for record in records if (record["task"], record["deltas"][0]["kind"]) == (task, delta)]
        values = [record["value"] for record in found]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        counts, seconds = found[0]["trainable"], statistics.mean(record["train_seconds"] for record in found)
        cells = (
            f"{sum(counts.values()) - counts.get('Head', 0):,} + head {counts.get('Head', 0):,}",
            found[0]["metric"],
            f"{statistics.mean(values):.3f}",
            f"{spread:.3f}",
            len(values),
            f"{found[0]['n']:,}",
            f"{seconds:.0f}",
        )
        lines.append(f"| {task} | {delta} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
