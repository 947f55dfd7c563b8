"""How many runs a minute a 16-shot grid makes: `deltatune-combos grid`, one process for each run, and PEFT with the Trainer.

    uv run python benchmarks/combos_grid.py --data_dir DATA --records docs/records/combos_grid.jsonl

The grid: LoRA (which PEFT has too) with a classification head, learning rates x seeds, 16 examples of each class, some updates
of 8 examples, four evaluations on dev, test examples scored at the end. The models are the 22M-parameter encoder that the test
group installs, on SST-2, and the built-in `world/m0`, on `world/aspect-0`. The arms take turns, each in processes of its own,
starting included:

- `one process per run`: `deltatune-combos run` for each, as the published scripts start their program; the first few runs alone;
- `PEFT and Trainer`: all runs in one process, model and tokenization once; nothing is saved;
- `grid`: one process; and `grid, workers`: a process for each core.

Runs a minute are medians over rounds; the peak is the resident memory of the arm's largest process.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from steps import encoder, publish

from deltatune.core.files import write_text
from deltatune.core.pool import cores

ALONE, TRAINER, GRID, WORKERS = "one process per run", "PEFT and Trainer", "grid", "grid, workers"
ARMS = (ALONE, TRAINER, GRID, WORKERS)
PROGRAM = (sys.executable, "-m", "deltatune.combos")


@dataclass(frozen=True)
class Grid:
    """The runs.

    Args:
        model: a folder or a name.
        task: which task.
        data_dir: of its files; None for a task of the world.
        rates: learning rates.
        seeds: of everything.
        steps: updates of 8 examples.
        max_test: test examples.
    """

    model: str
    task: str
    data_dir: Path | None
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    max_test: int

    @property
    def runs(self) -> list[tuple[float, int]]:
        """Rate and seed of each."""
        return [(rate, seed) for rate in self.rates for seed in self.seeds]

    @property
    def common(self) -> list[str]:
        """What the commands of both forms share."""
        words = ["--form", "head", "--model", self.model, "--task", self.task, "--shots", "16", "--max_test", str(self.max_test)]
        words += ["--train.steps", str(self.steps), "--train.eval_every", str(max(1, self.steps // 4))]
        words += ["--train.batch_size", "8", "--train_score", "false"]
        return words + (["--data_dir", str(self.data_dir)] if self.data_dir else [])

    def alone(self, rate: float, seed: int, out_dir: Path) -> list[str]:
        """The command of one run."""
        own = ["--methods", "lora", "--lr", str(rate), "--seed", str(seed), "--out_dir", str(out_dir / f"{rate}-{seed}")]
        return [*PROGRAM, "run", *self.common, *own]

    def together(self, workers: int, out_dir: Path) -> list[str]:
        """The command of all."""
        varied = ["--methods", "[lora]", "--rates", f"[{', '.join(map(str, self.rates))}]"]
        varied += ["--seeds", f"[{', '.join(map(str, self.seeds))}]", "--workers", str(workers)]
        return [*PROGRAM, "grid", *self.common, *varied, "--out_dir", str(out_dir)]

    def trainer(self) -> list[str]:
        """The command of the other side."""
        script = Path(__file__).with_name("combos_trainer.py")
        words = ["--model", self.model, "--task", self.task, "--steps", self.steps, "--max_test", self.max_test]
        words += ["--rates", f"[{', '.join(map(str, self.rates))}]", "--seeds", f"[{', '.join(map(str, self.seeds))}]"]
        words += ["--data_dir", self.data_dir] if self.data_dir else []
        return [sys.executable, str(script), *map(str, words)]


def main(
    data_dir: Path | None = None,
    models: tuple[str, ...] = ("encoder", "world/m0"),
    rates: tuple[float, ...] = (1e-3, 3e-4),
    seeds: tuple[int, ...] = (13, 21, 42, 87, 100),
    steps: int = 50,
    max_test: int = 300,
    alone: int = 3,
    rounds: int = 2,
    out_dir: Path | None = None,
    records: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Measure what is not measured yet, and print a table.

    Args:
        data_dir: holds `glue`; for the encoder.
        models: `encoder` and `world/m0`.
        rates: learning rates.
        seeds: of initial values, order, dropout and sample together.
        steps: updates of 8 examples.
        max_test: test examples.
        alone: runs of the arm that starts a process for each.
        rounds: of all arms.
        out_dir: where measurements are kept, so that an interrupted command goes on; by default they are not.
        records: also write one line for each arm.
        dry_run: print the number of runs, and the commands, only.
    """
    grids = {name: grid_of(name, data_dir, rates, seeds, steps, max_test) for name in models}
    count = len(rates) * len(seeds)
    print(f"{rounds * len(grids) * (3 * count + alone)} runs; about {_minutes(grids, count, alone, rounds, steps):.0f} minutes")
    if dry_run:
        for grid in grids.values():
            for arm in ARMS:
                for words in commands(grid, arm, alone, Path("OUT")):
                    print(*words)
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        kept = out_dir or Path(temporary)
        for (name, grid), number, arm in itertools.product(grids.items(), range(rounds), ARMS):
            path = kept / f"{name.replace('/', '-')}-{arm}-{number}.json"
            found.append(once(path, partial(measure, name, grid, arm, alone)))
    publish(found, rows(found), records, None)


def grid_of(
    name: str, data_dir: Path | None, rates: tuple[float, ...], seeds: tuple[int, ...], steps: int, max_test: int
) -> Grid:
    """The grid on a model."""
    if name != "encoder":
        return Grid(name, "world/aspect-0", None, rates, seeds, steps, max_test)
    if data_dir is None:
        sys.exit("the encoder's grid reads SST-2; give the folder that holds `glue` as --data_dir")
    return Grid(encoder(), "glue/sst-2", data_dir / "glue", rates, seeds, steps, max_test)


def _minutes(grids: Mapping[str, Grid], count: int, alone: int, rounds: int, steps: int) -> float:
    """A rough guess: of an update, of scoring and starting."""
    seconds = 0.0
    for name in grids:
        run = (0.15 if name == "encoder" else 0.01) * steps + (3.0 if name == "encoder" else 0.5)
        seconds += rounds * (3 * count * run + alone * (run + 8) + 30)
    return seconds / 60


def commands(grid: Grid, arm: str, alone: int, folder: Path) -> list[list[str]]:
    """The processes of an arm, one after the other."""
    if arm == ALONE:
        return [grid.alone(rate, seed, folder) for rate, seed in grid.runs[:alone]]
    if arm == TRAINER:
        return [grid.trainer()]
    return [grid.together(1 if arm == GRID else cores(), folder)]


def once(path: Path, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file says, or else what is measured, which it then says."""
    if not path.is_file():
        write_text(path, json.dumps(measured()))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def measure(name: str, grid: Grid, arm: str, alone: int) -> dict[str, Any]:
    """Seconds of an arm, its runs, and the resident memory of its largest process in MiB."""
    seconds, peak = 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for words in commands(grid, arm, alone, Path(folder) / "out"):
            taken, memory = spent(words)
            seconds, peak = seconds + taken, max(peak, memory)
    runs = alone if arm == ALONE else len(grid.runs)
    settings = {"steps": grid.steps, "max_test": grid.max_test, "cores": cores(), "threads": os.environ.get("OMP_NUM_THREADS")}
    print(f"{name}: {arm}: {60 * runs / seconds:.1f} runs a minute", flush=True)
    return {"model": name, "task": grid.task, "arm": arm, "runs": runs, "seconds": seconds, "peak_mib": peak, **settings}


def spent(words: list[str]) -> tuple[float, float]:
    """Wall-clock seconds of a process, and the resident memory in MiB of the largest of it and its children.

    Raises:
        SystemExit: it failed.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{said.read().decode('utf-8', 'replace')}\nstopped: {' '.join(words)} ended with {process.returncode}")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return time.perf_counter() - began, usage.ru_maxrss / scale


def rows(records: list[dict[str, Any]]) -> str:
    """Medians over rounds, and how many times as many runs as with one process for each."""
    lines = ["| model | arm | runs a minute | to one process per run | peak memory, MiB |", "|---|---|---|---|---|"]
    for model in dict.fromkeys(record["model"] for record in records):
        first = _rate(records, model, ALONE)
        for arm in ARMS:
            own = [record["peak_mib"] for record in records if (record["model"], record["arm"]) == (model, arm)]
            rate = _rate(records, model, arm)
            lines.append(f"| {model} | {arm} | {rate:.1f} | {rate / first:.1f} | {statistics.median(own):,.0f} |")
    return "\n".join(lines) + "\n"


def _rate(records: list[dict[str, Any]], model: str, arm: str) -> float:
    own = [record for record in records if (record["model"], record["arm"]) == (model, arm)]
    return statistics.median(60 * record["runs"] / record["seconds"] for record in own)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
