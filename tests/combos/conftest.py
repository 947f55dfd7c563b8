"""A tiny task and model, and the program."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def task(few_reviews) -> Path:
    """The task file of the bundled example, with few examples; the model is in `model` beside it."""
    return few_reviews(train=24, dev=8, test=9) / "task.yaml"


@pytest.fixture(scope="session")
def few(task) -> list[str]:
    """The words of a short training on it."""
    words = ["--model", task.with_name("model"), "--task", task, "--device", "cpu"]
    return [*map(str, words), "--train.steps", "2", "--train.eval_every", "1", "--train.batch_size", "4"]
