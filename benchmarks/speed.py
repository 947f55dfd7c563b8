"""Tunes and scores the same task with deltatune and with PEFT and the Trainer, side by side in one process.

    uv run python benchmarks/speed.py --data_dir DATA/glue --records docs/records/speed.jsonl

The arms take turns, round after round, so that a machine that slows down slows all of them; the median of the rounds counts.

- `Trainer`: PEFT's LoRA (for the adapter, which PEFT does not have, our module) under the Trainer as it is set by default:
  fp32, batches of 16 padded to their longest.
- `Trainer, best`: the same in bf16, grouped by length.
- `deltatune`: as `deltatune tune` is set by default.
- `deltatune, best`: in bf16, grouped by length.

The models are a 22M-parameter encoder with a classification head and a T5 of 4 + 4 layers of width 256 with the encoder's
tokenizer, whose weights are drawn: speed does not depend on them. Every arm runs the same model, rank and optimizer on the same
examples, one epoch of the first `16 * updates`: none is given shorter texts. A share of the peak is the arithmetic of the
encoder's matrix products that the method needs, on the tokens that are not padding, divided by what this machine's bf16 matrix
product reaches.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trainer
from jsonargparse import auto_cli
from steps import encoder, write_records
from torch import nn
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import Backbone, BackboneConfig
from deltatune.core.data import Task, load_task
from deltatune.core.delta import Houlsby, LoRA, Tuned, attach
from deltatune.core.evaluation import evaluate
from deltatune.core.formats import Feature, Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.optim import OptimizerConfig
from deltatune.core.train import Hooks, TrainConfig, fit

RANK, ALPHA, RATE = 8, 16, 1e-3
DELTAS = {"LoRA": LoRA(rank=RANK, alpha=ALPHA), "Houlsby": Houlsby()}


@dataclass(frozen=True)
class Arm:
    """One way to do the work.

    Args:
        name: as the table shows it.
        ours: deltatune, or PEFT and the Trainer.
        best: bf16 and grouped by length, or as it is set by default.
    """

    name: str
    ours: bool
    best: bool


ARMS = (
    Arm("Trainer", False, False),
    Arm("Trainer, best", False, True),
    Arm("deltatune", True, False),
    Arm("deltatune, best", True, True),
)


def peak(size: int = 2048) -> float:
    """Multiply-adds per second, times two, of a bf16 matrix product on this machine; the best of ten."""
    a, b = torch.randn(size, size, dtype=torch.bfloat16), torch.randn(size, size, dtype=torch.bfloat16)
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def products(backbone: Backbone, tokens: float) -> float:
    """Operations of the encoder's matrix products on `tokens` tokens, once forward and once back to the activations."""
    matrices = sum(
        p.numel()
        for name, p in backbone.model.named_parameters()
        if p.dim() == 2 and "embedding" not in name and "relative" not in name and "encoder" in name
    )
    return 4 * matrices * tokens


def train_ours(arm: Arm, tuned: Tuned, form: Format, features: list[Feature]) -> float:
    """The same for `fit`."""
    config = TrainConfig(
        optimizer=OptimizerConfig(lr=RATE),
        batch_size=16,
        epochs=1.0,
        precision="bf16" if arm.best else "fp32",
        group_by_length=arm.best,
        log_every=10**9,
    )
    hooks = Hooks(mode=tuned.train, progress=False)
    batches = config.batches(features, form.collate, form.choose)
    return fit(lambda batch: form.loss(tuned(batch), batch), tuned.parameters_by_name(), batches, config, hooks=hooks).seconds


def tiny_t5(folder: Path, encoder: str) -> str:
    """A gated T5 of width 256 with drawn weights and the tokenizer of `encoder`, saved in `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    torch.manual_seed(0)
    sizes = {"d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 512, "num_layers": 4, "num_decoder_layers": 4}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.sep_token_id, "decoder_start_token_id": 0}
    config = T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", tie_word_embeddings=False, **sizes, **ids)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def build(arm: Arm, base: str, delta: str, task: Task) -> tuple[nn.Module, Format]:
    """A fresh model, with its delta, for one arm."""
    precision = "bf16" if arm.ours and arm.best else "fp32"
    backbone = load_backbone(BackboneConfig(base, precision=precision), num_labels=len(task.labels))
    form = build_format(backbone, task, 256)
    if not arm.ours and delta == "LoRA":
        return trainer.with_lora(backbone.model, form, RANK, ALPHA), form
    tuned = attach(backbone, DELTAS[delta], generator=torch.Generator().manual_seed(0))
    return (tuned if arm.ours else trainer.Wrapped(tuned, form)), form


def measure(arm: Arm, base: str, delta: str, task: Task, updates: int) -> dict[str, float]:
    """Examples per second, in training and in scoring, of one arm."""
    model, form = build(arm, base, delta, task)
    train, test = form.features(task.train[: 16 * updates]), form.features(task.test)

    def train_on(features: list[Feature]) -> float:
        return train_ours(arm, model, form, features) if arm.ours else trainer.train(model, form, features, RATE, best=arm.best)

    train_on(train[:48])  # the first updates allocate and choose kernels
    seconds = train_on(train)
    if isinstance(model, Tuned):
        began = time.perf_counter()
        evaluate(model, form, task.test, test)
        scoring = time.perf_counter() - began
    else:
        scoring = trainer.scoring(model, form, test, best=arm.best)
    return {"train": len(train) / seconds, "score": len(test) / scoring}


def main(
    data_dir: Path,
    models: tuple[str, ...] = ("encoder", "t5"),
    tasks: tuple[str, ...] = ("glue/sst-2", "glue/rte"),
    deltas: tuple[str, ...] = ("LoRA", "Houlsby"),
    updates: int = 30,
    rounds: int = 3,
    test: int = 500,
    records: Path | None = None,
) -> None:
    """Measure, and print a table.

    Args:
        data_dir: the folder that holds the tasks.
        models: `encoder` (that of the test group), `t5` (drawn), or model folders.
        tasks: which tasks.
        deltas: which deltas.
        updates: timed in each round.
        rounds: of all arms; the median counts.
        test: examples that are scored.
        records: also write one line for each arm.
    """
    known = {"encoder": encoder()}
    lines: list[dict[str, Any]] = []
    reached = peak()
    with tempfile.TemporaryDirectory() as folder:
        if "t5" in models:
            known["t5"] = tiny_t5(Path(folder), known["encoder"])
        for model, name, delta in itertools.product(models, tasks, deltas):
            base, task = known.get(model, model), load_task(name, data_dir, max_test=test)
            found: dict[Arm, list[dict[str, float]]] = {arm: [] for arm in ARMS}
            for _ in range(rounds):
                for arm in ARMS:
                    found[arm].append(measure(arm, base, delta, task, updates))
            facts = {"model": model, "task": name, "delta": delta, "threads": torch.get_num_threads(), "peak": reached}
            lines += described(facts, found, base, task)
            print(rows(lines[-len(ARMS) :]), flush=True)
    if records is not None:
        write_records(records, lines)


def described(facts: dict[str, Any], found: Mapping[Arm, list[dict[str, float]]], base: str, task: Task) -> list[dict[str, Any]]:
    """One record for each arm: examples per second of every round, and the operations that one training example needs."""
    backbone = load_backbone(BackboneConfig(base), num_labels=len(task.labels))
    features = build_format(backbone, task, 256).features(task.train[:2000])
    tokens = statistics.mean(len(feature["input_ids"]) for feature in features)
    common = {**facts, "tokens": round(tokens, 2), "operations": products(backbone, tokens)}
    return [
        {**common, "arm": arm.name, **{key: [one[key] for one in rounds] for key in ("train", "score")}}
        for arm, rounds in found.items()
    ]


def rows(records: list[dict[str, Any]]) -> str:
    """A table of medians over rounds."""
    lines = [
        "| model | task | delta | arm | training examples/s | to Trainer | share of peak | scored examples/s | to Trainer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}
    for record in records:
        median = {key: statistics.median(record[key]) for key in ("train", "score")}
        first = median if record["arm"] == ARMS[0].name else first
        share = record["operations"] * median["train"] / record["peak"]
        ratios = {key: value / first[key] for key, value in median.items()}
        lines.append(
            f"| {record['model']} | {record['task']} | {record['delta']} | {record['arm']} "
            f"| {median['train']:.1f} | {ratios['train']:.2f} | {share:.0%} | {median['score']:.1f} | {ratios['score']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
