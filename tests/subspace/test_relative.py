"""Relative performance by hand, and the records of `optimize` that it is made of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate
from deltatune.core.files import read_json
from deltatune.core.reuse import open_run
from deltatune.core.run import read_records
from deltatune.subspace import cli
from deltatune.subspace.relative import Spread, at_chance, bootstrap, chance_of, corrected, near_chance, paired, relative, table
from deltatune.subspace.space import read, save

NAMES = ["houlsby", "lora", "prefix"]
shares = st.floats(0, 1)


def by(metric):
    """A form whose examples are their own references."""
    return SimpleNamespace(metric=metric, references=list)


def test_relative_performance_is_in_percent_of_the_original():
    assert relative(0.6, 0.8) == pytest.approx(75.0)  # 0.6 / 0.8 = 3/4
    assert relative(0.9, 0.6) == pytest.approx(150.0)
    assert relative(0.0, 0.8) == 0.0


@pytest.mark.parametrize(("value", "original"), [(0.6, 0.0), (0.0, 0.0), (-0.2, -0.1), (0.6, None), (None, 0.8), (None, None)])
def test_there_is_no_share_of_nothing(value, original):
    assert relative(value, original) is None


def test_corrected_performance_counts_from_chance():
    assert corrected(0.7, 0.9, 0.5) == pytest.approx(50.0)  # 0.2 of 0.4
    assert corrected(0.4, 0.9, 0.5) == pytest.approx(-25.0)  # -0.1 of 0.4
    assert corrected(0.6, 0.8, 0.0) == pytest.approx(relative(0.6, 0.8))


def test_an_original_that_is_not_a_point_above_chance_corrects_nothing():
    assert corrected(0.7, 0.5, 0.5) is None  # at chance
    assert corrected(0.7, 0.4, 0.5) is None  # below
    assert corrected(0.7, 1.0, 1.0) is None  # one class: the guess is right always
    assert corrected(0.7, 0.5 + 0.5 / 64, 0.5) is None  # 0.78 points above
    assert corrected(0.75, 0.5 + 1 / 64, 0.5) == pytest.approx(1600.0)  # 1.56 points above; 0.25 of 1/64
    assert corrected(None, 0.9, 0.5) is None
    assert corrected(0.7, None, 0.5) is None


@given(original=shares, chance=shares)
def test_the_original_has_all_of_its_performance_and_chance_has_none(original, chance):
    if 100 * (original - chance) >= 1:
        assert corrected(original, original, chance) == pytest.approx(100.0)
        assert corrected(chance, original, chance) == 0.0
    else:
        assert corrected(original, original, chance) is None
    if original:
        assert relative(original, original) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("metric", "references", "expected"),
    [
        ("accuracy", [0, 1, 0, 2], 2 / 4),  # the most frequent class
        ("accuracy", [1, 1, 1], 1.0),  # one class
        ("accuracy", [], 0.0),
        ("f1", [0, 1, 1], 0.8),  # always 1: precision 2/3, recall 1, F1 = 2 * 2/3 / (5/3)
        ("macro_f1", [0, 0, 1], 0.4),  # always 0: F1 of class 0 is 2 * 2/3 / (5/3) = 0.8, of class 1 it is 0
        ("matthews", [0, 1, 1], 0.0),  # a constant has no correlation
        ("pearson", [0.1, 0.2, 0.4], 0.0),
        ("mse", [0.0, 1.0, 2.0], 2 / 3),  # always 1: (1 + 0 + 1) / 3, the least; 0 and 2 have 5/3
        ("ACC", [["b", "a"], ["b", "c"], ["d"]], 2 / 3),  # always b, one of two answers of the first two
        ("ACC", [["a", "x"], ["b", "x"], []], 2 / 3),  # always x, which no example names first
        ("mse", [0.0, 2.0], 1.0),  # always 1, which is no example's
        ("EM", [["The cat"], ["cat!"], ["dog"]], 2 / 3),  # articles and punctuation do not count
        ("Classification-F1", [["a"], ["a"], ["b"]], 0.4),
    ],
)
def test_chance_is_the_best_score_of_one_constant_answer(metric, references, expected):
    assert chance_of(by(metric), references) == pytest.approx(expected)


@given(st.lists(st.integers(0, 3), min_size=1))
def test_chance_of_accuracy_is_the_share_of_the_most_frequent_class(labels):
    assert chance_of(by("accuracy"), labels) == pytest.approx(max(labels.count(label) for label in labels) / len(labels))


def test_few_examples_tell_nothing_from_chance():
    # All right: the Wilson interval of 1 begins at n / (n + z^2), z^2 = 3.84. 3 / 6.84 = 0.44, 4 / 7.84 = 0.51.
    assert [n for n in range(1, 8) if near_chance(1.0, 0.5, n)] == [1, 2, 3]
    # All wrong: it ends at z^2 / (n + z^2). 3.84 / 6.84 = 0.56, 3.84 / 7.84 = 0.49.
    assert [n for n in range(1, 8) if near_chance(0.0, 0.5, n)] == [1, 2, 3]
    # Of 100: 60 right are (0.6 + 0.0192 -+ 1.96 sqrt(0.0024 + 0.000096)) / 1.0384 = 0.502 to 0.691, 59 right 0.492 to 0.681.
    assert near_chance(0.59, 0.5, 100)
    assert not near_chance(0.60, 0.5, 100)


def test_no_example_or_no_share_is_never_near_chance():
    assert not near_chance(0.5, 0.5, 0)
    assert not near_chance(0.5, -0.1, 10)
    assert not near_chance(0.5, 1.1, 10)


@settings(max_examples=60)
@given(n=st.integers(1, 400), right=st.integers(0, 400), chance=st.floats(0.001, 0.999))
def test_near_chance_is_inside_the_wilson_interval(n, right, chance):
    right = min(n, right)
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    if min(abs(chance - interval.low), abs(chance - interval.high)) > 1e-6:
        assert near_chance(right / n, chance, n) == (interval.low < chance < interval.high)


def test_a_score_is_at_chance_below_it_or_not_told_from_it():
    assert at_chance(0.1, 0.5, 1000)  # far below, as where no known answer is written
    assert not near_chance(0.1, 0.5, 1000)
    assert at_chance(0.59, 0.5, 100)
    assert not at_chance(0.60, 0.5, 100)
    assert at_chance(1.0, 1.0, 1000)  # one class: nothing is better than a guess
    assert at_chance(0.0, 0.0, 75)
    assert at_chance(1.0, 0.5, 3)
    assert not at_chance(1.0, 0.5, 4)


def test_an_interval_is_shown_where_something_was_resampled():
    assert Spread(12.34, 10.0, 15.06, 3).text() == "12.3 [10.0, 15.1]"
    assert Spread(12.34, 12.34, 12.34, 1).text() == "12.3"


def test_tasks_are_drawn_anew_each_with_its_own_weight():
    # Two tasks of 0 and 100: a draw of two has the mean 0, 50 or 100 with probabilities 1/4, 1/2 and 1/4.
    assert bootstrap({("a", 0): 0.0, ("b", 0): 100.0}) == Spread(50.0, 0.0, 100.0, 2)
    # Nine seeds of one task weigh as much as one seed of the other: the mean is that of 0 and 100, not 100 / 10.
    many = {**{("a", seed): 0.0 for seed in range(9)}, ("b", 0): 100.0}
    assert bootstrap(many) == Spread(50.0, 0.0, 100.0, 10)
    # Of 16 tasks, half 0: at most 3 of 100 are drawn with probability 1.1%, at most 4 with 3.8%: it begins at 4 / 16.
    spread = bootstrap({(task, 0): 100.0 * (task % 2) for task in range(16)})
    assert (spread.mean, spread.low, spread.high) == pytest.approx((50.0, 25.0, 75.0))


def test_seeds_are_drawn_within_each_task():
    # Two seeds of one task, 0 and 100: as above. Of two such tasks all four draws are 0 with probability 1/16, above 2.5%.
    assert bootstrap({("a", 0): 0.0, ("a", 1): 100.0}) == Spread(50.0, 0.0, 100.0, 2)
    both = {(task, seed): 100.0 * seed for task in "ab" for seed in range(2)}
    assert bootstrap(both) == Spread(50.0, 0.0, 100.0, 4)
    # Of eight tasks that differ in their seeds alone the interval is that of 16 draws, as of 16 tasks above. Tasks drawn alone
    # would leave 50 everywhere.
    eight = bootstrap({(task, seed): 100.0 * seed for task in range(8) for seed in range(2)})
    assert (eight.low, eight.high) == pytest.approx((25.0, 75.0))


def test_one_value_has_no_width_and_none_no_mean():
    assert bootstrap({("a", 0): 70.0}) == Spread(70.0, 70.0, 70.0, 1)
    empty = bootstrap({})
    assert empty.n == 0
    assert all(map(math.isnan, (empty.mean, empty.low, empty.high)))


cells = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2)), st.floats(-100, 200), min_size=1)


@settings(max_examples=25, deadline=None)
@given(cells)
def test_an_interval_holds_the_mean_within_the_values_and_repeats(values):
    spread = bootstrap(values, seed=1, draws=50)
    assert spread == bootstrap(values, seed=1, draws=50)
    least, most = min(values.values()) - 1e-9, max(values.values()) + 1e-9
    assert least <= spread.low <= spread.high <= most
    assert least <= spread.mean <= most
    assert spread.n == len(values)


def test_differences_are_taken_where_both_have_a_value():
    assert paired({"a": 5.0, "b": 7.0, "c": 1.0}, {"b": 4.0, "a": 6.0, "d": 0.0}) == {"a": -1.0, "b": 3.0}
    assert paired({"a": 5.0}, {}) == {}


def test_a_table_has_means_of_what_is_there():
    known = {("a", "x"): 10.0, ("b", "x"): 20.0, ("b", "y"): 30.25}
    assert table(["a", "b"], ["x", "y"], lambda *at: known.get(at), corner="task").splitlines() == [
        "| task | x | y | mean |",
        "|---|---|---|---|",
        "| a | 10.0 |  | 10.0 |",
        "| b | 20.0 | 30.2 | 25.1 |",
        "| mean | 15.0 | 30.2 | 22.6 |",  # of the row: (15 + 30.25) / 2
    ]
    assert table(["a"], ["x"], lambda *at: None).splitlines()[2:] == ["| a |  |  |"]  # one row has no row of means


@pytest.fixture(scope="module")
def far(bench, tmp_path_factory):
    """The folder of a subspace whose points are so far out that a delta decoded from their mean does other things."""
    space = read(bench / "space")
    points = {task: own + 40.0 for task, own in space.points.items()}
    folder = tmp_path_factory.mktemp("far") / "space"
    save(folder, replace(space, points=points))
    return folder


@pytest.fixture(scope="module")
def controls(bench, far, tmp_path_factory):
    """The records on the second task of two points that are not tuned, decoded into every delta."""
    out = tmp_path_factory.mktemp("controls") / "out"
    words = ["optimize", "--subspace", far, "--tasks", f"[{bench / 'second.yaml'}]", "--controls", "[zero, mean]"]
    words += ["--sources", "[lora]", "--lrs", "[0.05]", "--originals", bench / "original", "--out_dir", out, "--device", "cpu"]
    assert cli.main(list(map(str, [*words, "--train.steps", 1, "--train.eval_every", 1]))) == 0
    return {(r["kind"], r["target"], r["split"]): r for r in read_records(out) if r["source"] is None}


def by_itself(bench, name, weights=None):
    """Split -> the scores on the second task of the initial folder of `name`, with other weights in it if given."""
    opened = open_run(bench / "init" / name)
    backbone = opened.backbone(device="cpu")
    task = opened.task_choice(str(bench / "second.yaml")).load()
    tuned, form = opened.attach(backbone), opened.format(backbone, task)
    if weights is not None:
        tuned.load(weights)
    return {split: evaluate(tuned, form, getattr(task, split)).numbers() for split in ("dev", "test")}


@pytest.mark.parametrize("name", NAMES)
def test_zero_scores_as_the_initial_folder_and_mean_as_the_decoded_mean_point(bench, far, controls, name):
    space = read(far)
    expected = {"zero": by_itself(bench, name), "mean": by_itself(bench, name, space.decode(name, space.mean_point()))}
    for kind, of_kind in expected.items():
        for split, numbers in of_kind.items():
            record = controls[kind, name, split]
            assert {key: record[key] for key in numbers} == pytest.approx(numbers, abs=1e-6)
            assert record["n"] == {"dev": 8, "test": 9}[split]
    assert abs(expected["zero"]["test"]["loss"] - expected["mean"]["test"]["loss"]) > 1e-3


def test_the_mean_point_is_that_of_all_tasks_solutions_and_deltas(bench):
    space = read(bench / "space")
    one, two = torch.zeros(1, 3, 3), torch.arange(18.0).reshape(2, 3, 3)  # one solution of a task, two of another
    # The columns of the second are 0, 3, .., 15, with sum 45, and one and two more; there are nine points.
    expected = torch.tensor([45.0, 51.0, 57.0]) / 9
    torch.testing.assert_close(replace(space, points={"one": one, "two": two}).mean_point(), expected)
    with pytest.raises(DeltatuneError, match="knows no source task"):
        replace(space, points={}).mean_point()


def test_a_record_is_relative_to_the_original_of_its_own_target_and_split(bench, controls):
    assert set(controls) == {(kind, name, split) for kind in ("zero", "mean") for name in NAMES for split in ("dev", "test")}
    for (_, name, split), record in controls.items():
        value, original, chance = record["value"], record["original"], record["chance"]
        assert original == read_json(bench / f"original/second/{name}/run.json")["scores"][split]["value"]
        labels = [json.loads(line)["label"] for line in (bench / f"{split}2.jsonl").read_text(encoding="utf-8").splitlines()]
        assert chance == max(labels.count(label) for label in labels) / len(labels)
        assert record["relative"] == pytest.approx(100 * value / original)
        above = original - chance
        assert record["corrected"] == (pytest.approx(100 * (value - chance) / above) if above >= 0.01 else None)
    assert {record["corrected"] is None for record in controls.values()} == {True, False}
