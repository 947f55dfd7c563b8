"""A tiny base, its upgrade, and outdated runs on the old one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from deltatune.core import cli as core
from deltatune.recyclable import cli

EXAMPLE = Path(__file__).parents[2] / "examples/reviews"
DELTAS = {"full": ("Full", "--lr", "1e-3"), "adapter": ("Houlsby", "--delta.width", "4"), "lora": ("LoRA", "--delta.rank", "2")}


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Path:
    """A folder with `old` and `new` (base models), `task.yaml` with few examples, and `runs/{full,adapter,lora}` tuned on old."""
    folder = tmp_path_factory.mktemp("bench")
    shutil.copy(EXAMPLE / "task.yaml", folder)
    for name, count in {"train": 48, "dev": 24, "test": 25}.items():
        lines = (EXAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    shutil.copytree(EXAMPLE / "model", folder / "old")
    shutil.copytree(EXAMPLE / "model", folder / "new")
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


@pytest.fixture
def command(capsys) -> Callable[..., str]:
    """`command(*words)`: run `deltatune-recyclable`, which must succeed; what it printed, stdout and stderr together."""

    def run(*words: object) -> str:
        code, printed = cli.main(list(map(str, words))), capsys.readouterr()
        assert code == 0, printed.err
        return printed.out + printed.err

    return run


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """`refused(*words)`: run `deltatune-recyclable`, which must end with one line and code 2; that line."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code, printed = cli.main(list(map(str, words))), capsys.readouterr()
        assert (code, printed.out, printed.err.count("\n")) == (2, "", 1), printed.out + printed.err
        return printed.err

    return run
