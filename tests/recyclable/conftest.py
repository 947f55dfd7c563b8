"""A tiny base, its upgrade, and outdated runs on the old one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from deltatune.core import cli as core

DELTAS = {"full": ("Full", "--lr", "1e-3"), "adapter": ("Houlsby", "--delta.width", "4"), "lora": ("LoRA", "--delta.rank", "2")}


@pytest.fixture(scope="session")
def bench(few_reviews) -> Path:
    """A folder with `old` and `new` (base models), `task.yaml` with few examples, and `runs/{full,adapter,lora}` tuned on old."""
    folder = few_reviews(train=48, dev=24, test=25)
    shutil.copytree(folder / "model", folder / "new")
    (folder / "model").rename(folder / "old")
    model = AutoModelForMaskedLM.from_pretrained(folder / "old", dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.005 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / "new")
    for name, words in DELTAS.items():
        common = ["tune", "--model", folder / "old", "--task", folder / "task.yaml", "--device", "cpu"]
        common += ["--delta", *words, "--train.steps", "24", "--train.batch_size", "8", "--train.snapshots", "12"]
        assert core.main(list(map(str, [*common, "--out_dir", folder / "runs" / name]))) == 0
    return folder
