"""Speed and memory of subspace approximation (stage 1), as ratios and as bytes; records as JSON lines.

    uv run python benchmarks/subspace_speed.py --data_dir DATA/gym --out_dir runs/speed --records runs/subspace-speed.jsonl

- `update`: updates per second beside the straightforward form: a model for each delta, its values made and put into it for
  each draw (LoRA multiplied out and added to its matrices), three forward passes for each draw. Both forms compute the same
  loss with the same optimizer on the same batches, in turns, round after round; the median of the rounds counts. For one task,
  with a draw for each batch, and for several, with a draw for each example. `deltatune, bf16` also groups texts by length.
- `memory`: the growth of a process's peak memory with the number of projection values, in child processes that train
  projections as stage 1 does, alone or two of a launch that divide them; from it the largest k and the longest delta that
  fit. The model's own memory comes on top.
- `processes`: updates per second of `approximate` in two processes beside one, each with one thread.

The model is the 22M-parameter encoder that the test group installs. The solutions are drawn, since no time depends on them.
Parts that are in the records already are not measured again.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from steps import encoder, publish, resident, write_records
from subspace import DELTAS as OPTIONS
from subspace import task_file
from subspace_forms import DELTAS, Bench, Precision, Straightforward, build

from deltatune.core.batches import Batch, Batches
from deltatune.core.data import load_task
from deltatune.core.files import read_json
from deltatune.core.optim import OptimizerConfig
from deltatune.core.processes import join, leave
from deltatune.core.train import Hooks, TrainConfig, fit
from deltatune.core.weights import Weights
from deltatune.subspace.approximation import Approximation, Sources
from deltatune.subspace.draws import Drawn, collating, tagged
from deltatune.subspace.objective import Objective
from deltatune.subspace.projections import draw, named, parameter_count
from deltatune.subspace.sharding import Lockstep, draw_part, trained
from deltatune.subspace.space import Subspace

TASKS = ("rotten_tomatoes", "glue-mrpc", "glue-cola")
ARMS = ("straightforward", "deltatune", "deltatune, bf16")
PUBLISHED = 1_105_920  # values of each of three deltas on T5-base
LIMIT = 16 * 10**9


def training(steps: int, precision: Precision = "fp32") -> TrainConfig:
    """Stage 1 as published, without evaluation."""
    optimizer = OptimizerConfig("adafactor", lr=1e-3, schedule="constant", max_grad_norm=None)
    return TrainConfig(optimizer, steps=steps, batch_size=8, eval_every=10**9, precision=precision, log_every=10**9)


def rate(bench: Bench, form: Any, source: Drawn, steps: int, precision: Precision) -> float:
    """Updates per second of `form`, which is trained on from where it is."""
    tensors = named(bench.ours.space.projections)
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    hooks = Hooks(mode=form.train, progress=False)
    return steps / fit(form.loss, tensors, source, training(steps, precision), hooks=hooks).seconds


def updates(model: str, data_dir: Path, folder: Path, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Updates per second of all forms, in turns."""
    found = []
    for tasks, k in ((TASKS[:1], 4), (TASKS, 16)):
        loaded = [load_task(task_file(folder, task), data_dir) for task in tasks]
        whole, half = build(model, loaded, k), build(model, loaded, k, "bf16")
        forms = {
            ARMS[0]: (whole, Straightforward(whole.ours, model), whole.source(0), "fp32"),
            ARMS[1]: (whole, whole.ours, whole.source(0), "fp32"),
            ARMS[2]: (half, half.ours, half.source(0, grouped=True), "bf16"),
        }
        for number in range(rounds + 1):
            for arm, (bench, form, source, precision) in forms.items():
                value = rate(bench, form, source, steps if number else 2, precision)
                if number:  # in the first round memory is allocated and kernels are chosen
                    found.append({"part": "update", "tasks": len(tasks), "k": k, "arm": arm, "round": number, "rate": value})
    return found


class WithoutModel(Approximation):
    """Approximation with a task loss that needs no model."""

    def task_loss(self, form: Any, tuned: Any, weights: Weights, batch: Batch) -> torch.Tensor:
        """Mean square of the decoded values."""
        return torch.stack([value.square().mean() for value in weights.values()]).sum()


def child(size: int, k: int, dtype: str, folder: str) -> None:
    """Train projections of three deltas of `size` values and print the process's peak beyond what it had before."""
    before, generator, group = resident("VmHWM"), torch.Generator().manual_seed(0), join("cpu")
    inits = {name: {"w": torch.zeros(size)} for name in DELTAS}
    kept = torch.bfloat16 if dtype == "bf16" else torch.float32
    here = torch.device("cpu")
    projections = {
        name: draw(size, k, generator, dtype=kept) if group.count == 1 else draw_part(size, k, generator, kept, here, group)
        for name in DELTAS
    }
    space = Subspace(dict.fromkeys(DELTAS, ()), inits, projections, {}, Objective(), {})
    vectors = [[torch.randn(1, size, generator=generator) * 0.01 for _ in DELTAS]]
    model = WithoutModel(space, dict.fromkeys(DELTAS), Sources(["none"], [None], vectors), "example")  # type: ignore[arg-type,list-item]
    tensors = trained(projections)
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    inner = Batches(tagged([[{"input_ids": [1]}] * 64]), collating(lambda rows: {"input_ids": torch.ones(len(rows), 1)}), 8, 0)
    drawn = Drawn(inner, 0, "stick", "example", [[1, 1, 1]])
    source = drawn if group.count == 1 else Lockstep(drawn, here)
    config = TrainConfig(training(3).optimizer, steps=3, batch_size=8, eval_every=1, save_every=1)
    hooks = Hooks(state_dir=Path(folder), progress=False)
    fit(model.loss, tensors, source, config, evaluate=lambda: 0.0, hooks=hooks)
    print(json.dumps({"values": 3 * parameter_count(size, k), "bytes": resident("VmHWM") - before}))
    leave(0)


def memory(sizes: Sequence[int], k: int) -> list[dict[str, Any]]:
    """Peaks of child processes, of several in one launch the greatest."""
    found = []
    for dtype in ("fp32", "bf16"):
        for count in (1, 2):
            for size in sizes:
                with tempfile.TemporaryDirectory() as folder:
                    call = f"import subspace_speed as s; s.child({size}, {k}, {dtype!r}, {folder!r})"
                    # Matrices of the published size are always mapped one by one; so are the smaller ones then.
                    mapped = ["env", "MALLOC_MMAP_THRESHOLD_=131072"]
                    said = launch([*mapped, sys.executable, "-c", call], count)
                last = [json.loads(text.splitlines()[-1]) for text in said]
                most = max(last, key=lambda record: int(record["bytes"]))
                found.append({"part": "memory", "dtype": dtype, "processes": count, "size": size, "k": k, **most})
    return found


def processes(model: str, data_dir: Path, folder: Path, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Updates per second of `approximate` in one and in two processes, in turns."""
    task = task_file(folder / "tasks", TASKS[0])
    small = ["--data_dir", data_dir, "--max_dev", 8, "--max_test", 8, "--train.steps", 1, "--train.eval_every", 1]
    command(["make-init", "--model", model, *OPTIONS, "--num_labels", 2, "--out_dir", folder / "init"])
    command(["train-delta", "--init", folder / "init", "--tasks", f"[{task}]", *small, "--out_dir", folder / "original"])
    words = ["approximate", "--init", folder / "init", "--solutions", f"[{folder / 'original'}]", "--data_dir", data_dir]
    words += ["--mixtures", 0, "--dev_lines", 8, "--train.steps", steps, "--train.eval_every", 10**9, "--device", "cpu"]
    found = []
    for number in range(rounds):
        for count in (1, 2):
            out = folder / f"round-{number}-{count}"
            command([*words, "--out_dir", out], count)
            found.append({"part": "processes", "count": count, "rate": steps / read_json(out / "run.json")["train_seconds"]})
    return found


def command(words: Sequence[Any], count: int = 1) -> None:
    """One command of the program, see `launch`."""
    launch([sys.executable, "-m", "deltatune.subspace", *map(str, words)], count)


def launch(words: Sequence[str], count: int) -> list[str]:
    """What each of `count` processes of one thread prints.

    Raises:
        SystemExit: a process failed; with what it said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environment = {**os.environ, **together, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            words, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [process.communicate() for process in running]
    if any(process.returncode for process in running):
        sys.exit("\n".join(error for _, error in said))
    return [printed for printed, _ in said]


def main(
    data_dir: Path,
    out_dir: Path,
    records: Path,
    model: str | None = None,
    rounds: int = 5,
    steps: int = 20,
    sizes: tuple[int, ...] = (20_000, 40_000, 80_000, PUBLISHED),
    k: int = 100,
    table: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Measure the parts that the records lack, and print a table.

    Args:
        data_dir: the folder that holds the tasks' folders.
        out_dir: where runs go.
        records: file of the records; its parts are taken up.
        model: a model folder; by default the encoder of the test group.
        rounds: measurements of each arm.
        steps: updates of each.
        sizes: values of each of three deltas, for the memory.
        k: dimensions, for the memory.
        table: also write the table to this file.
        dry_run: say what is measured only.
    """
    base, folder = model or encoder(), out_dir / "tasks"
    parts = {
        "update": lambda: updates(base, data_dir, folder, rounds, steps),
        "memory": lambda: memory(sizes, k),
        "processes": lambda: processes(base, data_dir, out_dir, 3, 2 * steps),
    }
    lines = records.read_text(encoding="utf-8").splitlines() if records.is_file() else []
    found = [json.loads(line) for line in lines]
    left = [part for part in parts if not any(record["part"] == part for record in found)]
    held = 15.0 * len(sizes) + 2e-4 * sum(sizes)
    seconds = {"update": (rounds + 1) * steps * 3.0, "memory": held, "processes": 60 + 6 * steps * 0.6}
    print(f"{len(left)} of {len(parts)} parts to measure: {', '.join(left)}; {sum(seconds[p] for p in left) / 60:.0f} minutes")
    if dry_run:
        return
    for part in left:
        found += parts[part]()
        write_records(records, found)
    publish(found, rows(found), None, table)


def rows(found: Sequence[dict[str, Any]]) -> str:
    """Ratios, bytes, and what fits."""
    lines = ["| tasks | k | form | updates a second | to the straightforward | rounds |", "|---|---|---|---|---|---|"]
    own = [record for record in found if record["part"] == "update"]
    for tasks, k, arm in dict.fromkeys((record["tasks"], record["k"], record["arm"]) for record in own):
        rates, base = ([r["rate"] for r in own if (r["tasks"], r["arm"]) == (tasks, name)] for name in (arm, ARMS[0]))
        middle = statistics.median(rates)
        lines.append(f"| {tasks} | {k} | {arm} | {middle:.2f} | {middle / statistics.median(base):.2f} | {len(rates)} |")
    lines += [
        "",
        "| projections in | bytes a value | largest k of the published deltas in 16 GB | longest of three deltas, k = 100 |",
    ]
    lines.append("|---|---|---|---|")
    own = [record for record in found if record["part"] == "memory"]
    for dtype, count in dict.fromkeys((record["dtype"], record.get("processes", 1)) for record in own):
        each = slope([record for record in own if (record["dtype"], record.get("processes", 1)) == (dtype, count)])
        room = LIMIT / each / 3
        k = max((k for k in range(1, 100_000) if parameter_count(PUBLISHED, k) <= room), default=0)
        label = dtype if count == 1 else f"{dtype}, each of {count} processes"
        lines.append(f"| {label} | {each:.1f} | {k:,} | {int((room - 100 * 102) / 200):,} |")
    own = [record for record in found if record["part"] == "processes"]
    one, two = (statistics.median(r["rate"] for r in own if r["count"] == count) for count in (1, 2))
    lines += [
        "",
        f"Two processes of one thread beside one: {two / one:.2f} times the updates a second ({two:.2f} and {one:.2f}).",
    ]
    return "\n".join(lines) + "\n"


def slope(found: Sequence[dict[str, Any]]) -> float:
    """Bytes a value: how the peak grows from the smallest to the largest number of values."""
    first, last = (choose(found, key=lambda record: record["values"]) for choose in (min, max))
    return float((last["bytes"] - first["bytes"]) / (last["values"] - first["values"]))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
