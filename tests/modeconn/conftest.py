"""A tiny base and runs on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.modeconn import cli

EXAMPLE = Path(__file__).parents[2] / "examples/reviews"
DELTAS = {"full": ("Full", "--lr", "1e-3"), "adapter": ("Houlsby", "--delta.width", "4"), "lora": ("LoRA", "--delta.rank", "2")}


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Path:
    """A folder with `model`, `task.yaml` with few examples, and `runs/{full,adapter,lora}-{0,1}`, tuned from two seeds."""
    folder = tmp_path_factory.mktemp("bench")
    shutil.copy(EXAMPLE / "task.yaml", folder)
    for name, count in {"train": 32, "dev": 16, "test": 17}.items():
        lines = (EXAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    shutil.copytree(EXAMPLE / "model", folder / "model")
    for name, words in DELTAS.items():
        for seed in (0, 1):
            common = ["tune", "--model", folder / "model", "--task", folder / "task.yaml", "--device", "cpu", "--delta", *words]
            common += ["--train.steps", "8", "--train.batch_size", "8", "--train.snapshots", "4", "--init_seed", seed]
            assert cli.main(list(map(str, [*common, "--data_seed", seed, "--out_dir", folder / "runs" / f"{name}-{seed}"]))) == 0
    return folder


@pytest.fixture
def command(capsys) -> Callable[..., str]:
    """`command(*words)`: run `deltatune-modeconn`, which must succeed; what it printed, stdout and stderr together."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code, printed = cli.main(list(map(str, words))), capsys.readouterr()
        assert code == 0, printed.err
        return printed.out + printed.err

    return run


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """`refused(*words)`: run `deltatune-modeconn`, which must end with one line and code 2; that line."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code, printed = cli.main(list(map(str, words))), capsys.readouterr()
        assert (code, printed.out, printed.err.count("\n")) == (2, "", 1), printed.out + printed.err
        return printed.err

    return run
