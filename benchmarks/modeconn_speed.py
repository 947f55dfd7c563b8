"""What a point of a path costs in seconds and memory: as published, with mixed state dicts, and as `deltatune-modeconn` does it.

    uv run python benchmarks/modeconn_speed.py --data_dir DATA/glue --records docs/records/modeconn_speed.jsonl

A path is a straight line between two models that were drawn near the 22M-parameter encoder of the test group (speed does not
depend on the weights), scored on the first examples of the dev part of SST-2, in fp32:

- `published`: at every point the model, both ends and the texts are loaded and encoded anew, the ends mixed and put in, and
  batches of 32 scored that are padded to 128 tokens. That is the published program of the classifier branch.
- `state dicts`: all are loaded once; at every point a third state dict is mixed and loaded; batches of 32, in the order of the
  file, padded to their longest text.
- `deltatune`: as `walk` does it, one point after the other.
- `deltatune, together`: of deltas, all points in every forward pass, as `walk` does it with very few short examples.

Seconds are of whole paths, loading included, divided by the points; the ways take turns, round after round, and the median of
the rounds counts. Memory is the peak of a child process that does one path in one way and nothing else. All ways must find the
same losses.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from safetensors.torch import load_file, save_file
from steps import encoder, publish, resident
from torch import Tensor, nn

from deltatune.core.backbone import Backbone, BackboneConfig
from deltatune.core.data import Example, load_task
from deltatune.core.delta import Full, LoRA, Tuned, attach
from deltatune.core.evaluation import evaluate, evaluate_many
from deltatune.core.formats import Feature, Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.paths import End, end_of, grid, settle, walk
from deltatune.core.weights import lerp

LENGTH, BATCH = 128, 32
DELTAS = {"Full": Full(), "LoRA": LoRA()}


@dataclass(frozen=True)
class Walk:
    """What is walked.

    Args:
        base: folder of the encoder.
        data_dir: of the task.
        ends: folder with `left.safetensors` and `right.safetensors`: what the trainable tensors hold.
        delta: which tensors these are.
        points: places on the line.
        examples: scored at each.
    """

    base: str
    data_dir: Path
    ends: Path
    delta: str
    points: int
    examples: int

    def texts(self) -> tuple[Any, Sequence[Example]]:
        """The task and the examples."""
        task = load_task("glue/sst-2", self.data_dir)
        return task, task.dev[: self.examples]

    def build(self) -> tuple[Backbone, Format, Sequence[Example]]:
        """A model from its files, with the texts."""
        task, examples = self.texts()
        backbone = load_backbone(BackboneConfig(self.base, device="cpu"), num_labels=len(task.labels))
        return backbone, build_format(backbone, task, LENGTH), examples

    def end(self, name: str) -> dict[str, Tensor]:
        """An end from its file."""
        return load_file(self.ends / f"{name}.safetensors")


def padded(form: Format, features: Sequence[Feature], length: int | None) -> dict[str, Tensor]:
    """A batch, padded to `length` tokens or to its longest text."""
    batch = dict(form.collate(features))
    wide = 0 if length is None else length - batch["input_ids"].shape[1]
    for name in [name for name, tensor in batch.items() if tensor.dim() == 2]:
        value = form.pad_id if name == "input_ids" else 0
        batch[name] = nn.functional.pad(batch[name], (0, wide), value=value)
    return batch


def scored(model: nn.Module, form: Format, features: Sequence[Feature], length: int | None) -> float:
    """Mean loss over the examples, in batches in the order of the file."""
    losses = []
    with torch.inference_mode():
        for first in range(0, len(features), BATCH):
            batch = padded(form, features[first : first + BATCH], length)
            labels = {"labels": batch.pop("labels")}
            logits = model(batch) if isinstance(model, Tuned) else model(**batch).logits
            losses.append(float(form.loss(logits, labels)) * len(labels["labels"]))
    return sum(losses) / len(features)


def plain(path: Walk, backbone: Backbone) -> nn.Module:
    """The model that state dicts are loaded into: itself where it is fine-tuned, else with the delta."""
    return backbone.model.eval() if path.delta == "Full" else attach(backbone, DELTAS[path.delta])


def put(model: nn.Module, mixed: dict[str, Tensor]) -> None:
    """Load a mixed state dict."""
    if isinstance(model, Tuned):
        model.load(mixed)
    else:
        model.load_state_dict(mixed, strict=False)


def as_published(path: Walk) -> Iterator[float]:
    """Everything anew at every point."""
    for x in grid(path.points):
        backbone, form, examples = path.build()
        model = plain(path, backbone)
        put(model, lerp(path.end("left"), path.end("right"), x))
        yield scored(model, form, form.features(examples), LENGTH)


def with_state_dicts(path: Walk) -> Iterator[float]:
    """Loaded once; a third state dict at every point."""
    backbone, form, examples = path.build()
    model, features = plain(path, backbone), form.features(examples)
    left, right = path.end("left"), path.end("right")
    for x in grid(path.points):
        put(model, lerp(left, right, x))
        yield scored(model, form, features, None)


def with_walk(path: Walk) -> Iterator[float]:
    """One point after the other in one model."""
    backbone, form, examples = path.build()
    tuned, features = attach(backbone, DELTAS[path.delta]), form.features(examples)
    settle(tuned, [])
    ends = [End(path.end(name)) for name in ("left", "right")]

    def look() -> dict[str, float]:
        return {"loss": evaluate(tuned, form, examples, features).loss}

    for point in walk(tuned, ends, grid(path.points), look, restore=False):
        yield point["loss"]


def all_together(path: Walk) -> Iterator[float]:
    """All points in every forward pass."""
    backbone, form, examples = path.build()
    tuned = attach(backbone, DELTAS[path.delta])
    left, right = path.end("left"), path.end("right")
    points = [lerp(left, right, x) for x in grid(path.points)]
    yield from (found.loss for found in evaluate_many(tuned, form, examples, points))


WAYS: dict[str, Callable[[Walk], Iterator[float]]] = {
    "published": as_published,
    "state dicts": with_state_dicts,
    "deltatune": with_walk,
    "deltatune, together": all_together,
}


def ways_of(delta: str) -> list[str]:
    """Points of whole models have no batched pass."""
    return [name for name in WAYS if delta != "Full" or name != "deltatune, together"]


def peak(path: Walk, way: str) -> tuple[float, float]:
    """MiB that this process held before a path, and at its peak."""
    return resident("VmRSS") / 2**20, (list(WAYS[way](path)), resident("VmHWM") / 2**20)[1]


def in_a_child(path: Walk, way: str) -> tuple[float, float]:
    """`peak` in a process of its own, which has loaded the libraries and nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak, path, way).result()


def draw_ends(base: str, delta: str, folder: Path) -> Path:
    """Two ends near the encoder: its weights plus noise."""
    tuned = attach(load_backbone(BackboneConfig(base, device="cpu"), num_labels=2), DELTAS[delta])
    values, draw = end_of(tuned).deltas, torch.Generator().manual_seed(0)
    folder.mkdir()
    for name in ("left", "right"):
        moved = {key: value + 0.01 * torch.randn(value.shape, generator=draw) for key, value in values.items()}
        save_file(moved, folder / f"{name}.safetensors")
    return folder


def main(
    data_dir: Path,
    model: str | None = None,
    deltas: tuple[str, ...] = ("Full", "LoRA"),
    examples: tuple[int, ...] = (8, 200),
    points: int = 6,
    rounds: int = 3,
    records: Path | None = None,
    table: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Measure, and print a table.

    Args:
        data_dir: the folder that holds SST-2.
        model: another encoder than that of the test group.
        deltas: Full, LoRA.
        examples: how many are scored at a point.
        points: of the path.
        rounds: of all ways.
        records: also write one line for each way to this file.
        table: also write the table to this file.
        dry_run: print what would be measured and the estimate only.
    """
    base = model or encoder()
    cases = [(delta, count, way) for delta in deltas for count in examples for way in ways_of(delta)]
    # About 25 ms for a text of 128 tokens and a fifth for one as it is, half a second to load; once more for the memory.
    costs = [points * (0.5 + 0.025 * count) if way == "published" else points * 0.005 * count + 0.5 for _, count, way in cases]
    print(
        f"{len(cases)} cases, {rounds} rounds; about {(rounds + 1) * sum(costs) / 60 + 0.2 * len(cases):.0f} minutes on one core"
    )
    if dry_run:
        for case in cases:
            print(*case, sep=" | ")
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for delta in deltas:
            ends = draw_ends(base, delta, Path(folder) / delta)
            for count in examples:
                found += measured(Walk(base, data_dir, ends, delta, points, count), rounds)
    publish(found, rows(found), records, table)


def measured(path: Walk, rounds: int) -> list[dict[str, Any]]:
    """A record for each way: seconds per point of every round, and memory."""
    ways = ways_of(path.delta)
    memory = {way: in_a_child(path, way) for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way in ways:
            began = time.perf_counter()
            losses[way] = list(WAYS[way](path))
            seconds[way].append((time.perf_counter() - began) / path.points)
    for way in ways:
        if max(abs(a - b) for a, b in zip(losses[way], losses[ways[0]], strict=True)) > 1e-3:
            sys.exit(f"{way} finds other losses than {ways[0]}: {losses[way]} and {losses[ways[0]]}")
    common = {"delta": path.delta, "examples": path.examples, "points": path.points, "threads": torch.get_num_threads()}
    return [{**common, "way": w, "seconds": seconds[w], "before": memory[w][0], "peak": memory[w][1]} for w in ways]


def rows(found: list[dict[str, Any]]) -> str:
    """Medians over rounds; times and memory of the published way divided by those of the others."""
    lines = ["| delta | examples | way | seconds per point | times as fast | peak memory, MiB | above the libraries |"]
    lines.append("|---|---|---|---|---|---|---|")
    first = 0.0
    for record in found:
        median = statistics.median(record["seconds"])
        first = median if record["way"] == "published" else first
        cells = [f"{median:.3f}", f"{first / median:.1f}", f"{record['peak']:.0f}", f"{record['peak'] - record['before']:.0f}"]
        lines.append(f"| {record['delta']} | {record['examples']} | {record['way']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
