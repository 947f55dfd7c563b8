"""A tiny base and runs on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltatune.modeconn import cli

DELTAS = {
    "full": ("Full", "--lr", "1e-3"),
    "adapter": ("Houlsby", "--delta.width", "4"),
    "lora": ("LoRA", "--delta.rank", "2"),
    "prefix": ("Prefix", "--delta.length", "3", "--delta.width", "4"),
}


@pytest.fixture(scope="session")
def bench(few_reviews) -> Path:
    """A folder with `model`, `task.yaml` with few examples, and `runs/{full,adapter,lora,prefix}-{0,1}`, tuned from two seeds."""
    folder = few_reviews(train=32, dev=16, test=17)
    for name, words in DELTAS.items():
        for seed in (0, 1):
            common = ["tune", "--model", folder / "model", "--task", folder / "task.yaml", "--device", "cpu", "--delta", *words]
            common += ["--train.steps", "8", "--train.batch_size", "8", "--train.snapshots", "4", "--init_seed", seed]
            assert cli.main(list(map(str, [*common, "--data_seed", seed, "--out_dir", folder / "runs" / f"{name}-{seed}"]))) == 0
    return folder
