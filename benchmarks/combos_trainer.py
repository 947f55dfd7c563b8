"""The other side of `combos_grid.py`: the runs of a grid under PEFT's LoRA and the Trainer of transformers, in one process."""

from __future__ import annotations

import copy
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import trainer
from jsonargparse import auto_cli
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

from deltatune.core.backbone import BackboneConfig
from deltatune.core.data import few_shots, load_task
from deltatune.core.formats import build_format
from deltatune.core.loading import load_backbone

RANK, ALPHA = 8, 16


def main(
    model: str,
    task: str,
    rates: tuple[float, ...],
    seeds: tuple[int, ...],
    steps: int,
    max_test: int,
    data_dir: Path | None = None,
) -> None:
    """Tune with every rate and seed; prints one line of JSON for each run.

    Args:
        model: a folder or a name.
        task: which task.
        rates: learning rates.
        seeds: of everything.
        steps: updates of 8 examples.
        max_test: test examples.
        data_dir: of the task's files.
    """
    whole = load_task(task, data_dir, max_test=max_test)
    backbone = load_backbone(BackboneConfig(model, form="head"), num_labels=len(whole.labels))
    form = build_format(backbone, whole, 256)
    encoded = {example.id: feature for example, feature in zip(whole.train, form.features(whole.train), strict=True)}
    test = form.features(whole.test)
    for rate, seed in itertools.product(rates, seeds):
        sampled = few_shots(whole, 16, seed)
        set_seed(seed)  # the head of the copy keeps its values; PEFT draws its own
        tuned = trainer.with_lora(copy.deepcopy(backbone.model), form, RANK, ALPHA)
        parts = [[encoded[example.id] for example in part] for part in (sampled.train, sampled.dev)]
        with tempfile.TemporaryDirectory() as folder:
            settings: dict[str, Any] = {
                "output_dir": folder, "learning_rate": rate, "max_steps": steps, "per_device_train_batch_size": 8,
                "eval_strategy": "steps", "eval_steps": max(1, steps // 4), "save_strategy": "no", "logging_strategy": "no",
                "report_to": [], "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "seed": seed,
            }  # fmt: skip
            collator = DataCollatorWithPadding(form.tokenizer)
            own = Trainer(tuned, TrainingArguments(**settings), collator, *parts, compute_metrics=_accuracy)
            own.train()
            found = own.predict(test).metrics["test_accuracy"]
        print(json.dumps({"rate": rate, "seed": seed, "test": found}), flush=True)


def _accuracy(output: Any) -> dict[str, float]:
    logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    return {"accuracy": float((logits.argmax(axis=-1) == output.label_ids).mean())}


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
