"""Runs on halves of the training data."""

from __future__ import annotations

import pytest

from deltatune.core.data import halved, load_task
from deltatune.core.errors import DeltatuneError
from deltatune.core.reuse import open_run
from deltatune.core.tune_config import TaskChoice


def test_the_halves_are_the_training_examples_in_order_and_leave_dev_and_test_whole():
    task = load_task("world/sentiment-0", None, max_train=7, max_dev=4, max_test=4)
    first, second = (halved(task, half) for half in ("first", "second"))
    assert (len(first.train), len(second.train)) == (3, 4)
    assert first.train + second.train == task.train
    assert len({task.digest, first.digest, second.digest}) == 3
    for half in (first, second):
        assert (half.dev, half.test, half.labels) == (task.dev, task.test, task.labels)
    with pytest.raises(DeltatuneError, match="no halves"):
        halved(load_task("world/sentiment-0", None, max_train=1), "first")
    with pytest.raises(DeltatuneError, match="does not go with --shots"):
        TaskChoice("world/sentiment-0", shots=2, half="first")


def test_a_run_on_a_half_is_another_run_and_remembers_it(command, tune_reviews, tmp_path):
    command(*tune_reviews, "--delta", "LoRA", "--half", "first", "--out_dir", tmp_path / "run")
    opened = open_run(tmp_path / "run")
    assert opened.task_choice().half == "first"
    assert len(opened.task_choice().load().train) == 12
