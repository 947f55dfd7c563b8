"""Seconds and memory of what ensembling repeats most: scoring many sources, gradients of single examples, merging.

    uv run python benchmarks/ensemble_speed.py --data_dir DATA/glue --records docs/records/ensemble_speed.jsonl

The ways of one piece of work take turns, round after round, so that a machine that slows down slows all of them; the median of
the rounds counts, and results are compared before times are. The model is the 22M-parameter encoder of the test group with LoRA
(rank 8) whose values are drawn: speed does not depend on them.

- `scoring`: the loss of every source on the same examples, from files on disk: in a model that is loaded once (ours; alone, and
  with two more measures from the same predictions), with PEFT's adapters loaded into one model and switched, and with base and
  source loaded anew for each source, as the published programs do.
- `gradients`: the length of the delta's gradient of every example: of a batch in one pass, and by a backward pass for each.
- `deltas`, `models`: the average of 100 deltas and of 10 whole models, one tensor of each at a time (ours) and with all of them
  loaded first. Each in a process of its own; memory is what the process had at most (mapped files included) beyond what it had
  before. Files are in the page cache for both.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ensemble_merging import merging
from jsonargparse import auto_cli
from steps import encoder, publish

from deltatune.core import checkpoint, peft_format
from deltatune.core.backbone import BackboneConfig
from deltatune.core.data import Task, load_task
from deltatune.core.delta import LoRA, Tuned, attach
from deltatune.core.formats import build_format
from deltatune.core.loading import load_backbone
from deltatune.ensemble.gradients import batch_norms, example_losses, example_norms
from deltatune.ensemble.scoring import Budget, Target, score_sources

OURS = ("shared base", "shared base, three measures")
THREE = ["loss", "el2n", "label_cosine"]


@dataclass(frozen=True)
class Bench:
    """What is measured on.

    Args:
        model: the encoder.
        task: its dev examples are looked at.
        folder: scratch; `sources` and `peft` in it hold the sources.
        count: of the sources.
    """

    model: str
    task: Task
    folder: Path
    count: int

    def tuned(self) -> Tuned:
        """The base with a fresh delta, loaded from disk."""
        backbone = load_backbone(BackboneConfig(self.model, device="cpu"), num_labels=len(self.task.labels))
        return attach(backbone, LoRA(rank=8), generator=torch.Generator().manual_seed(0))

    def names(self) -> list[str]:
        """Of the sources."""
        return [f"{number:03d}" for number in range(self.count)]

    def write(self) -> None:
        """Sources with drawn values, as delta folders and as PEFT's."""
        tuned, generator = self.tuned(), torch.Generator().manual_seed(1)
        for name in self.names():
            weights = {key: 0.05 * torch.randn(value.shape, generator=generator) for key, value in tuned.weights().items()}
            checkpoint.save(self.folder / "sources" / name, tuned, {"labels": list(self.task.labels)}, weights)
            peft_format.export(self.folder / "sources" / name, self.folder / "peft" / name)


def shared(bench: Bench, measures: list[str]) -> list[float]:
    """The losses, by `score_sources`."""
    tuned = bench.tuned()
    target = Target(tuned, build_format(tuned.backbone, bench.task, 256), bench.task, Budget("dev", reduction="mean"))
    sources = {name: checkpoint.read(bench.folder / "sources" / name).weights for name in bench.names()}
    return [row["all"] for row in score_sources(target, sources, measures)["loss"].values()]


def reloaded(bench: Bench) -> list[float]:
    """The losses, base and source loaded for each."""
    found = []
    for name in bench.names():
        tuned = bench.tuned()
        tuned.load(checkpoint.read(bench.folder / "sources" / name).weights)
        found.append(_loss(bench, tuned, tuned))
    return found


def switched(bench: Bench) -> list[float]:
    """The losses, by PEFT: all adapters in one model, one made active after another."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    labels = len(bench.task.labels)
    base: Any = AutoModelForSequenceClassification.from_pretrained(bench.model, num_labels=labels, dtype=torch.float32)
    names = bench.names()
    model = PeftModel.from_pretrained(base, str(bench.folder / "peft" / names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(bench.folder / "peft" / name), adapter_name=name)
    tuned, found = bench.tuned(), []  # for its tokenizer and batches; the time of it is a hundredth of the whole
    for name in names:
        model.set_adapter(name)
        found.append(_loss(bench, tuned, lambda batch: model(**batch).logits))
    return found


def _loss(bench: Bench, tuned: Tuned, logits: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> float:
    tuned.eval()
    form = build_format(tuned.backbone, bench.task, 256)
    features, total = form.features(bench.task.dev), 0.0
    with torch.no_grad():
        for first in range(0, len(features), 16):
            batch = form.collate(features[first : first + 16])
            labels = batch.pop("labels") if logits is not tuned else batch["labels"]
            total += float(example_losses(logits(batch), labels).sum())
    return total / len(features)


def scoring(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Seconds of each way to score all sources."""
    ways: dict[str, Callable[[], list[float]]] = {
        OURS[0]: lambda: shared(bench, THREE[:1]),
        OURS[1]: lambda: shared(bench, THREE),
        "PEFT, adapters switched": lambda: switched(bench),
        "loaded for each": lambda: reloaded(bench),
    }
    switched(bench)  # imports
    seconds, results = _in_turns(ways, rounds)
    for name, losses in results.items():
        torch.testing.assert_close(losses, results[OURS[0]], atol=1e-4, rtol=1e-4, msg=f"{name} gives other losses")
    about = {"section": "scoring", "what": f"{bench.count} sources, {len(bench.task.dev)} examples"}
    return [{**about, "way": way, "seconds": found} for way, found in seconds.items()]


def gradients(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Seconds of each way to the gradient lengths of all examples under one source."""
    tuned = bench.tuned()
    tuned.load(checkpoint.read(bench.folder / "sources" / bench.names()[0]).weights)
    tuned.eval()
    form = build_format(tuned.backbone, bench.task, 256)
    features = form.features(bench.task.dev)

    def together() -> list[float]:
        found: list[float] = []
        for first in range(0, len(features), 16):
            batch = form.collate(features[first : first + 16])
            found += example_norms(tuned, batch, batch["labels"], tuned, lambda name: "all")["all"].tolist()
        return found

    def apart() -> list[float]:
        batches = (form.collate([feature]) for feature in features)
        losses = (example_losses(tuned(batch), batch["labels"]).sum() for batch in batches)
        return [batch_norms(tuned, loss, lambda name: "all")["all"] for loss in losses]

    together()
    seconds, results = _in_turns({"one pass for a batch": together, "a backward for each": apart}, rounds)
    torch.testing.assert_close(results["one pass for a batch"], results["a backward for each"], atol=1e-4, rtol=1e-3)
    about = {"section": "gradients", "what": f"{len(features)} examples"}
    return [{**about, "way": way, "seconds": found} for way, found in seconds.items()]


def _in_turns(ways: dict[str, Callable[[], list[float]]], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    results = {}
    for _ in range(rounds):
        for way, function in ways.items():
            began = time.perf_counter()
            results[way] = function()
            seconds[way].append(time.perf_counter() - began)
    return seconds, results


def main(
    data_dir: Path,
    sources: int = 20,
    examples: int = 50,
    deltas: int = 100,
    models: int = 10,
    rounds: int = 3,
    records: Path | None = None,
) -> None:
    """Measure, and print a table.

    Args:
        data_dir: the folder that holds SST-2.
        sources: that are scored.
        examples: that they are scored on.
        deltas: that are averaged.
        models: that are averaged.
        rounds: of all ways; the median counts.
        records: also write one line for each way.
    """
    model = Path(encoder())
    task = load_task("glue/sst-2", data_dir, max_train=1, max_dev=examples, max_test=1)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(str(model), task, Path(scratch), max(sources, deltas))
        bench.write()
        every = [bench.folder / "sources" / name for name in bench.names()[:deltas]]
        bench = Bench(str(model), task, Path(scratch), sources)
        copies = [bench.folder / "models" / str(number) for number in range(models)]
        for copy in copies:
            shutil.copytree(model, copy)
        lines = [*scoring(bench, rounds), *gradients(bench, rounds)]
        lines += [*merging("deltas", every, bench.folder, rounds), *merging("models", copies, bench.folder, rounds)]
    lines = [{**line, "threads": torch.get_num_threads()} for line in lines]
    publish(lines, rows(lines), records, None)


def rows(found: list[dict[str, Any]]) -> str:
    """Medians over rounds, and how many times those of the first way the others take."""
    lines = ["| work | way | seconds | to the first | peak memory, MB | to the first |", "|---|---|---|---|---|---|"]
    first: dict[str, dict[str, Any]] = {}
    for line in found:
        start = first.setdefault(line["section"], line)
        cells = [f"{line['section']}: {line['what']}", line["way"]]
        for key, digits in (("seconds", 2), ("megabytes", 0)):
            if key in line:
                value, unit = statistics.median(line[key]), statistics.median(start[key])
                cells += [f"{value:.{digits}f}", f"{value / unit:.1f}"]
        lines.append(f"| {' | '.join([*cells, '', ''][:6])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
