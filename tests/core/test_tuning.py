"""What is decided before a run begins: samples, learning rates, starts."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest

from deltatune.core.backbone import BackboneConfig
from deltatune.core.data import Example, TaskConfig, build_task, few_shots
from deltatune.core.delta import BitFit, Full, LoRA, Prefix
from deltatune.core.errors import DeltatuneError
from deltatune.core.optim import OptimizerConfig
from deltatune.core.train import TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig


def classes(count):
    config = TaskConfig(name="t", reader="jsonl", metric="accuracy", labels=("a", "b"))
    train = [Example((f"text {i}",), "ab"[i % 2], id=str(i)) for i in range(count)]
    return build_task(config, train, train[:2], train[:3])


@pytest.mark.parametrize("seed", [0, 1, 13])
def test_a_sample_is_balanced_and_disjoint_from_its_development_part(seed):
    task = few_shots(classes(40), 4, seed)
    assert Counter(e.label for e in task.train) == Counter(e.label for e in task.dev) == {"a": 4, "b": 4}
    assert not {e.id for e in task.train} & {e.id for e in task.dev}
    assert task.test == classes(40).test
    assert task == few_shots(classes(40), 4, seed) != few_shots(classes(40), 4, seed + 1)
    assert f"sample seed {seed}" in task.notes[-1]


def test_values_are_sampled_below_and_above_the_middle():
    config = TaskConfig(name="t", reader="jsonl", metric="pearson", regression=(0.0, 5.0))
    train = [Example(("x",), i / 4, id=str(i)) for i in range(21)]  # 0, 0.25, ..., 5; the middle itself counts as above
    task = few_shots(build_task(config, train, (), ()), 5, 0)
    assert sorted(e.label >= 2.5 for e in task.train) == [False] * 5 + [True] * 5


@pytest.mark.parametrize("bounds", [(-inf, inf), (0.0, inf), (-inf, 9.0)])
def test_values_without_bounds_are_sampled_below_and_above_their_median(bounds):
    config = TaskConfig(name="t", reader="jsonl", metric="pearson", regression=bounds)
    train = [Example(("x",), value, id=str(i)) for i, value in enumerate((0.5, 8.0, 1.0, 7.5, 2.0, 3.0, 3.5, 1.5))]  # median 2.5
    task = few_shots(build_task(config, train, (), ()), 2, 0)
    for part in (task.train, task.dev):
        assert sorted(example.label >= 2.5 for example in part) == [False, False, True, True]


def test_values_on_one_side_of_the_middle_are_no_sample():
    config = TaskConfig(name="t", reader="jsonl", metric="pearson", regression=(0.0, 5.0))
    train = [Example(("x",), 4.0 + i / 8, id=str(i)) for i in range(8)]
    with pytest.raises(DeltatuneError, match=r"--shots 2: class below 2.5 of t has 0 examples, 4 are needed"):
        few_shots(build_task(config, train, (), ()), 2, 0)


def test_a_limit_of_dev_does_not_go_with_shots():
    with pytest.raises(DeltatuneError, match="--max_dev 5 does not go with --shots 4"):
        TaskChoice("glue/rte", max_dev=5, shots=4)
    assert TaskChoice("glue/rte", max_train=9, max_test=5, shots=4).max_test == 5


def test_too_few_examples_of_a_class_are_named():
    with pytest.raises(DeltatuneError, match="--shots 4: class b of t has 7 examples, 8 are needed"):
        few_shots(classes(15), 4, 0)


@pytest.mark.parametrize(
    ("deltas", "given", "rate"), [((LoRA(),), None, 1e-3), ((Full(), Prefix()), None, 5e-5), ((BitFit(),), 3e-4, 3e-4)]
)
def test_the_rate_is_the_one_given_or_the_smallest_that_the_deltas_ask_for(deltas, given, rate):
    train = TrainConfig(optimizer=OptimizerConfig(lr=given))
    assert TuneConfig(BackboneConfig("m"), TaskChoice("glue/rte"), deltas, train).learning_rate == rate
