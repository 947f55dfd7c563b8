"""Metrics against the reference vectors, hand-computed values, and the promises of `score`."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import DEFINITIONS, METRICS, Score, metric_of_task, normalize_answer, rouge_l, score, scored_tasks


def same(found: float, expected: float | str | None, tolerance: float = 1e-9) -> None:
    if expected is None or isinstance(expected, str):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(expected, abs=tolerance)


def test_text_metrics_of_the_mode_connectivity_programs(golden):
    data = golden("modeconn", "metrics.json")
    for case in data["cases"]:
        found = score(case["metric"], case["predictions"], case["answers"])
        same(found.value, case["value"])
        if case["per_example"] is not None:
            assert found.per_example == pytest.approx([float(value) for value in case["per_example"]], abs=1e-9)
    for pair in data["normalize_answer"]:
        assert normalize_answer(pair["text"]) == pair["normalized"]
    assert scored_tasks().items() >= data["metric_of_task"].items()


@pytest.mark.parametrize(("metric", "key"), [("EM", "em"), ("ACC", "acc"), ("QA-F1", "qa_f1"), ("Rouge-L", "rouge_l")])
def test_scores_of_one_pair(golden, metric, key):
    for pair in golden("modeconn", "metrics.json")["pairwise"]:
        if pair[key] is not None:
            same(score(metric, [pair["prediction"]], [pair["groundtruth"]]).value, float(pair[key]))


def test_glue_metrics(golden):
    names = {
        "accuracy": "accuracy",
        "f1": "f1",
        "matthews_correlation": "matthews",
        "pearson": "pearson",
        "spearmanr": "spearman",
    }
    for case in golden("modeconn", "metrics.json")["glue"]:
        found = {
            key: score(name, case["predictions"], case["references"]).value
            for key, name in names.items()
            if key in case["result"]
        }
        if "combined_score" in case["result"]:
            found["combined_score"] = sum(found.values()) / len(found)
        assert found == pytest.approx(case["result"], abs=1e-9)


def test_text_metrics_of_the_ensemble_programs(golden):
    data = golden("ensemble", "metrics.json")
    for case in data["cases"]:
        found = score(case["metric"], case["predictions"], case["golds"])
        # The recorded values are rounded to nine decimals.
        same(found.value, case["value"], 1e-8 if case["metric"] == "Rouge-L" else 1e-9)
        if case.get("per_example") is not None:
            assert found.per_example == pytest.approx(case["per_example"], abs=1e-8 if case["metric"] == "Rouge-L" else 1e-9)
    for text, normalized in data["normalize_answer"]:
        assert normalize_answer(text) == normalized
    assert scored_tasks().items() >= data["metric_of_task"].items()


def test_every_published_task_has_its_metric(golden):
    assert scored_tasks().items() >= golden("ensemble", "tasks.json")["metric_of_task"].items()
    assert scored_tasks().items() >= golden("subspace", "tasks.json")["metric_by_task"].items()
    assert metric_of_task("glue-rte") == "ACC"
    assert metric_of_task("no-such-task") is None
    assert set(scored_tasks().values()) <= set(DEFINITIONS)


def test_text_metrics_of_the_subspace_programs(golden):
    for case in golden("subspace", "metrics.json")["cases"]:
        same(score(case["metric"], case["predictions"], case["references"]).value, None if case["is_nan"] else case["value"])


def test_glue_metrics_of_delta_tuning(golden):
    names = {"mcc": "matthews", "acc": "accuracy", "f1": "f1", "pearson": "pearson", "spearmanr": "spearman"}
    for case in golden("combos", "metrics.json")["metrics"]:
        expected = {key.rpartition("/")[2]: value for key, value in case["metrics"].items()}
        found = {key: score(names[key], case["predictions"], case["labels"]).value for key in names if key in expected}
        for key, value in found.items():
            same(value, expected[key])
        for mean in {"acc_and_f1", "corr"} & set(expected):
            same(sum(found.values()) / len(found), expected[mean])


def test_accuracy_and_squared_error_of_recyclable_tuning(golden):
    data = golden("recyclable", "metrics_and_labels.json")
    predictions = [max(range(len(row)), key=row.__getitem__) for row in data["logits"]]
    assert score("accuracy", predictions, data["labels"]).value == pytest.approx(data["accuracy"], rel=1e-6)
    values = [row[0] for row in data["regression_pred"]]
    assert score("mse", values, data["regression_label"]).value == pytest.approx(data["mse"], rel=1e-6)


def test_macro_f1_by_hand():
    # Class 0: 2 * 1 / (2 + 1 + 1) = 1/2; class 1: 2 * 1 / (2 + 0 + 1) = 2/3; class 2 is only predicted and does not count.
    assert score("macro_f1", [0, 0, 2, 1], [0, 1, 0, 1]).value == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_standard_error_by_hand():
    found = score("accuracy", [1, 0, 1, 1], [1, 1, 1, 1])
    assert found.value == 0.75
    assert found.stderr == pytest.approx(0.25)  # the values 1 0 1 1 have variance 1/4
    assert score("accuracy", [1], [1]).stderr is None
    assert score("Classification-F1", ["a", "b"], [["a"], ["a"]]).stderr is None
    assert score("Classification-F1", ["a", "b"], [["a"], ["a"]]).per_example == [1.0, 0.0]


@pytest.mark.parametrize(
    ("metric", "predictions", "references"),
    [
        ("pearson", [1.0, 1.0], [0.0, 1.0]),
        ("spearman", [0.0, 1.0], [2.0, 2.0]),
        ("pearson", [1.0], [1.0]),
        ("pearson", [1.0, math.nan], [0.0, 1.0]),
        ("mse", [1.0, math.nan], [0.0, 1.0]),
        ("f1", [0, 0], [0, 0]),
        ("accuracy", [], []),
        ("Pearson-Correlation", ["1", "two", "3"], [["1"], ["2"], ["3"]]),
    ],
)
def test_what_is_not_defined_is_nan(metric, predictions, references):
    assert math.isnan(score(metric, predictions, references).value)


def test_texts_take_the_counterpart_of_a_class_metric():
    assert score("accuracy", ["Yes"], [["yes"]]) == Score(1.0, [1.0])
    assert score("matthews", ["acceptable", "no"], [["acceptable"], ["no"]]).value == 1.0
    with pytest.raises(DeltatuneError, match="metric f1 does not score texts"):
        score("f1", ["yes"], [["yes"]])


def test_user_errors():
    with pytest.raises(DeltatuneError, match=r"unknown metric 'acuracy'; near ones: accuracy"):
        score("acuracy", [1], [1])
    with pytest.raises(DeltatuneError, match="2 predictions but 1 references"):
        score("accuracy", [1, 2], [1])
    with pytest.raises(DeltatuneError, match="example number 1 has no reference"):
        score("Classification-F1", ["a", "b"], [["a"], []])
    with pytest.raises(DeltatuneError, match="has no words"):
        rouge_l("a", "...")


def test_long_answers_are_scored():
    assert rouge_l("a " * 700, "a b " * 350) == pytest.approx(2 * 0.5 / 1.5, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_classes_of_metrics_say_what_score_says(pairs):
    predictions, references = ([pair[i] for pair in pairs] for i in range(2))
    for name in ("accuracy", "macro_f1", "matthews"):
        found = METRICS[name]().compute(predictions=predictions, references=references)
        expected = score(name, predictions, references)
        assert found == {name: pytest.approx(expected.value), "per_example": expected.per_example}
        assert expected.value <= 1.0
        assert score(name, references, references).value in ((1.0,) if name != "matthews" else (0.0, 1.0))


def test_every_definition_has_a_class():
    assert set(METRICS) == set(DEFINITIONS)
    answers = METRICS["EM"]().compute(predictions=["the cat", "x"], references=[["Cat!", "dog"], ["y"]])
    assert answers == {"EM": 0.5, "per_example": [1.0, 0.0]}
    ranks = METRICS["Spearman-Correlation"]().compute(predictions=["1", "2"], references=[["3"], ["4"]])
    assert ranks == {"Spearman-Correlation": pytest.approx(1.0), "per_example": None}


def test_metrics_write_nothing_and_score_imports_little(tmp_path: Path):
    program = (
        "import sys; from deltatune.core.metrics import score; import deltatune.core.data\n"
        "assert score('accuracy', [1], [1]).value == 1\n"
        "assert not {'evaluate', 'datasets', 'transformers'} & set(sys.modules)\n"
    )
    environment = os.environ | {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_metric_class_makes_no_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.chdir(tmp_path)
    METRICS["accuracy"]().compute(predictions=[1], references=[1])
    assert not list(tmp_path.iterdir())
