"""A tiny task and model, and the program."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.combos import cli

EXAMPLE = Path(__file__).parents[2] / "examples/reviews"


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> Path:
    """The task file of the bundled example, with few examples; the model is in `model` beside it."""
    folder = tmp_path_factory.mktemp("task")
    shutil.copy(EXAMPLE / "task.yaml", folder)
    for name, count in {"train": 24, "dev": 8, "test": 9}.items():
        lines = (EXAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    shutil.copytree(EXAMPLE / "model", folder / "model")
    return folder / "task.yaml"


@pytest.fixture(scope="session")
def few(task) -> list[str]:
    """The words of a short training on it."""
    words = ["--model", task.with_name("model"), "--task", task, "--device", "cpu"]
    return [*map(str, words), "--train.steps", "2", "--train.eval_every", "1", "--train.batch_size", "4"]


@pytest.fixture
def command(capsys) -> Callable[..., str]:
    """`command(*words)`: run `deltatune-combos`, which must succeed; what it printed, stdout and stderr together."""

    def run(*words: object) -> str:
        code, printed = cli.main(list(map(str, words))), capsys.readouterr()
        assert code == 0, printed.err
        return printed.out + printed.err

    return run


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """`refused(*words)`: run `deltatune-combos`, which must end with one line and code 2; that line."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code, printed = cli.main(list(map(str, words))), capsys.readouterr()
        assert (code, printed.out, printed.err.count("\n")) == (2, "", 1), printed.out + printed.err
        return printed.err

    return run
