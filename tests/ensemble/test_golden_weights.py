"""Scores of weights, mixtures and the published matrix: the reference vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import combine
from deltatune.ensemble.matrix import read_published
from deltatune.ensemble.measures import MEASURES
from deltatune.ensemble.taxonomy import qa_categories, qa_tasks
from deltatune.ensemble.weight_scores import gain, movement, weight_cosine
from deltatune.ensemble.weighting import Softening, effective_number, manual_division, soften, uniform

PUBLISHED_MATRIX = Path(__file__).parents[3] / "shared/golden/ensemble/published_loss_matrix.json"


def tensors(state):
    return {name: torch.tensor(values) for name, values in state.items()}


def states(entry):
    return {task: tensors(state) for task, state in entry.items()}


def same(actual, expected, atol=2e-5):
    expected = tensors(expected)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=atol, rtol=0)


def without(task, row):
    return {name: value for name, value in row.items() if name != task}


def mixture(sources, weights):
    return combine([sources[name] for name in weights], list(weights.values()))


def test_files_of_scores_are_read_and_the_malformed_one_is_refused_d3(golden, tmp_path):
    entry = golden("ensemble", "similarity_from_model.json")
    file = tmp_path / "result.tsv"
    text = ""
    for target in ("quarel", "boolq"):
        text += "\n".join(entry[f"GraNd_block_raw_lines_encoder_block_0/{target}"]) + "\n"
    file.write_text(text)
    matrix = read_published(file)
    for target, row in matrix.items():
        assert list(row) == entry["tasks"]
        assert list(row.values()) == pytest.approx(entry["results"][f"GraNd/block/{target}"]["encoder_block_0"])
    for target in ("quarel", "boolq"):
        file.write_text("\n".join(entry[f"GraNd_dev_raw_lines/{target}"]) + "\n")
        with pytest.raises(DeltatuneError, match="GraNd of the original"):
            read_published(file)


@pytest.mark.parametrize("kind", ["adapter", "lora", "prefix"])
def test_the_average(golden, kind):
    entry = golden.case("ensemble", "ensemble_weights.json", f"average/{kind}")
    sources = states(entry["source"])
    for task in entry["tasks"]:
        same(mixture(sources, uniform([name for name in entry["tasks"] if name != task])), entry["merged"][task])


def check(case, weights, sources, task):
    assert list(weights.values()) == pytest.approx(case["weights"][task], abs=2e-5)
    same(mixture(sources, weights), case["merged"][task])


def test_cosine_of_weights(golden):
    entry = golden.case("ensemble", "ensemble_weights.json", "weight_cosine")
    sources, tuned = states(entry["source"]), states(entry["target_tuned"])
    for temperature, case in entry["cases"].items():
        for task in entry["tasks"]:
            scores = {name: weight_cosine(tuned[task], source) for name, source in sources.items() if name != task}
            if "scores" in case:
                assert list(scores.values()) == pytest.approx(case["scores"][task], rel=1e-4, abs=1e-5)
            check(case, soften(scores, 1, Softening(float(temperature))), sources, task)


def test_euclidean(golden):
    entry = golden.case("ensemble", "ensemble_weights.json", "euclidean")
    sources = states(entry["source"])
    for temperature, case in entry["cases"].items():
        for task in entry["tasks"]:
            tuned = states(entry["tuned"][task])
            scores = {name: movement(source, tuned[name]) for name, source in sources.items() if name != task}
            if "gaps" in case:
                assert list(scores.values()) == pytest.approx(case["gaps"][task], rel=1e-4, abs=1e-5)
            check(case, soften(scores, -1, Softening(float(temperature))), sources, task)


@pytest.mark.parametrize("kind", ["three_tasks", "n_tasks"])
def test_performance(golden, kind):
    entry = golden.case("ensemble", "ensemble_weights.json", f"performance/{kind}")
    for case in entry["cases"].values():
        for i, task in enumerate(entry["tasks"]):
            tuned = states(entry["tuned"][task])
            rows = [dict(zip(entry["tasks"], entry[key][i], strict=True)) for key in ("tuned_dev", "zero_shot_dev")]
            scores = without(task, gain(*rows))
            check(case, soften(scores, case["sign"], Softening(case["tem"])), tuned, task)


@pytest.mark.parametrize("name", ["distance_tem0.1", "distance_tem10", "similarity_tem10"])
def test_weights_and_mixtures_from_scores(golden, name):
    entry = golden("ensemble", "ensemble_from_scores.json")
    case, tasks, sources = entry["cases"][name], entry["tasks"], states(entry["source"])
    assert tasks == qa_tasks()
    for i, task in enumerate(tasks):
        scores = without(task, dict(zip(tasks, entry["scores"][i], strict=True)))
        weights = soften(scores, case["sign"], Softening(case["tem"]))
        row = [weights.get(source, 0.0) for source in tasks]
        assert row == pytest.approx(case["heatmap"][i], abs=2e-5)
        assert row[i] == 0.0
        same(mixture(sources, weights), case["merged"][task])


def test_uniform_and_manual_division(golden):
    entry = golden("ensemble", "ensemble_from_scores.json")
    tasks, sources = entry["tasks"], states(entry["source"])
    for task in tasks:
        others = {name: name for name in tasks if name != task}
        same(mixture(sources, uniform(list(others))), entry["average_all"][task])
        same(mixture(sources, manual_division(task, others, qa_categories())), entry["manual_division"][task])


def test_signs_as_published():
    distances = [name for name, measure in MEASURES.items() if measure.sign == -1]
    assert distances == ["loss", "el2n", "kl", "grand", "euclidean", "label_cosine_as_released", "hidden_cosine_as_released",
                         "performance_as_earlier"]  # fmt: skip
    assert all(MEASURES[name].sign == -MEASURES[MEASURES[name].scores].sign for name in distances if MEASURES[name].measured_as)


@pytest.fixture(scope="module")
def published_matrix():
    if not PUBLISHED_MATRIX.is_file():
        pytest.skip(f"other people's published data, not part of the repository: {PUBLISHED_MATRIX.name}")
    entry = json.loads(PUBLISHED_MATRIX.read_text(encoding="utf-8"))
    return entry, {
        task: dict(zip(entry["tasks"], row, strict=True)) for task, row in zip(entry["tasks"], entry["loss"], strict=True)
    }


def test_the_published_losses_find_the_category_of_29_of_32_targets(published_matrix):
    _, loss = published_matrix
    category = {task: name for name, tasks in qa_categories().items() for task in tasks}
    nearest = {target: min(without(target, row), key=row.get) for target, row in loss.items()}
    assert sum(category[nearest[task]] == category[task] for task in loss) == 29
    assert sum(min(row, key=row.get) == target for target, row in loss.items()) == 19
    sizes = [len(tasks) for tasks in qa_categories().values()]
    assert sum(n * (n - 1) for n in sizes) / 31 / 32 == pytest.approx(0.379, abs=5e-4)


def test_the_published_losses_give_the_published_weights(published_matrix):
    entry, loss = published_matrix
    for temperature, expected in entry["weights"].items():
        rows = {target: soften(without(target, row), -1, Softening(float(temperature))) for target, row in loss.items()}
        for target, values in zip(loss, expected, strict=True):
            assert [rows[target].get(source, 0.0) for source in loss] == pytest.approx(values, abs=2e-5)
        if float(temperature) == 0.1:
            numbers = sorted(effective_number(row) for row in rows.values())
            assert (numbers[15] + numbers[16]) / 2 == pytest.approx(3.0, abs=0.05)
            assert (numbers[0], numbers[-1]) == pytest.approx((1.0, 7.3), abs=0.05)
