"""Scores, weights and mixtures against the reference vectors of the published program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import untie, wrap
from deltatune.core.delta import attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.legacy import infer_config, rename
from deltatune.core.weights import combine
from deltatune.ensemble.gradients import batch_norms, example_losses
from deltatune.ensemble.matrix import published_text, read_published
from deltatune.ensemble.measures import MEASURES
from deltatune.ensemble.modules import block_states, grouping, places, state_cosines
from deltatune.ensemble.taxonomy import extended_tasks, qa_categories, qa_tasks
from deltatune.ensemble.token_scores import TokenScores
from deltatune.ensemble.weight_scores import gain, movement, weight_cosine
from deltatune.ensemble.weighting import Softening, effective_number, manual_division, soften, uniform

PUBLISHED_MATRIX = Path(__file__).parents[3] / "shared/golden/ensemble/published_loss_matrix.json"
SCORES = {"Loss": "loss", "EL2N": "el2n", "Cosine_of_Logits_and_Labels": "label_cosine", "KL_divergence": "kl"}
TWO_CLASSES = ("boolq", "mc_taco")


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


def test_the_lists_of_tasks(golden):
    facts = golden("ensemble", "tasks.json")
    assert qa_tasks() == facts["qa_tasks"]
    assert qa_categories() == facts["categories"]
    assert extended_tasks() == facts["extended_tasks"]
    for task, sizes in facts["split_sizes"].items():  # the sizes of the sample that tasks.yaml describes
        expected = 32 if task in qa_categories()["binary"] else 64
        assert (sizes["train"], sizes["dev"]) == (expected, expected)


@pytest.mark.golden("ensemble", "similarity_from_logits.json")
@pytest.mark.parametrize("published", SCORES)
def test_scores_from_logits(golden, published):
    entry, name = golden("ensemble", "similarity_from_logits.json"), SCORES[published]
    # The published measures see different batches (defect D5); the batches here are those of the record.
    count = len(entry["batches"]) if name == "label_cosine" else 1
    assert entry["vocab"] == len(entry["target_tuned_logits"][0][0][0])
    found = {}
    for source in entry["tasks"]:
        scores = TokenScores()
        for i in range(count):
            labels, tuned = torch.tensor(entry["batches"][i]["labels"]), torch.tensor(entry["target_tuned_logits"][i])
            scores.add(torch.tensor(entry["logits"][source][i]), labels, tuned)
        found[source] = scores.score(name)
        tokens = scores.sums["tokens"]
        assert scores.score(name, mean=True) == pytest.approx(found[source] / (1 if name == "loss" else tokens))
    assert list(found.values()) == pytest.approx(entry["results"][published], rel=1e-5)
    lines = published_text({entry["target"]: found}).splitlines()
    for line, expected in zip(lines, entry["result_tsv"][published], strict=True):
        assert line.partition(",")[0] == expected.partition(",")[0]
        if "," in expected:
            assert float(line.partition(",")[2]) == pytest.approx(float(expected.partition(",")[2]), rel=1e-5)


def tensors_under(archive, prefix):
    return {key.removeprefix(prefix): torch.tensor(archive[key]) for key in archive.files if key.startswith(prefix)}


@pytest.fixture(scope="module")
def encoder_decoder(golden):
    """The tiny T5 of the record with an adapter, its sources by task, the delta tuned on the target, and the batches."""
    archive, meta = golden("ensemble", "similarity_from_model.npz"), golden("ensemble", "similarity_from_model.json")
    size = meta["size"]
    config = T5Config(
        vocab_size=size["vocab"], d_model=size["d_model"], d_kv=size["d_kv"], d_ff=size["d_ff"], num_heads=size["heads"],
        num_layers=size["layers"], relative_attention_num_buckets=8, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    model = untie(T5ForConditionalGeneration(config))
    assert not model.load_state_dict(tensors_under(archive, "base/"), strict=False).unexpected_keys
    sources = {task: rename(tensors_under(archive, f"delta/{task}/")) for task in meta["tasks"]}
    target = rename(tensors_under(archive, "target_delta/"))
    tuned = attach(wrap(model), infer_config(target))
    assert meta["delta"]["adapter_size"] == next(iter(target.values())).shape[0]
    batches = [tensors_under(archive, f"batch{i}/") for i in range(meta["n_batches"])]
    return tuned, sources, target, batches


def load(tuned, weights):
    tuned.load({name: weights[name] for name in tuned.parameters_by_name()})


def test_scores_from_a_model(golden, encoder_decoder):
    tuned, sources, target, batches = encoder_decoder
    results = golden("ensemble", "similarity_from_model.json")["results"]
    found = {published: [] for published in SCORES}
    with torch.no_grad():
        load(tuned, target)
        reference = [tuned(batch) for batch in batches]
        for weights in sources.values():
            load(tuned, weights)
            first, every = TokenScores(), TokenScores()
            for i, batch in enumerate(batches):
                logits = tuned(batch)
                every.add(logits, batch["labels"])
                if i == 0:
                    first.add(logits, batch["labels"], reference[0])
            for published, name in SCORES.items():
                found[published].append((every if name == "label_cosine" else first).score(name))
    for published, values in found.items():
        assert values == pytest.approx(results[published], rel=1e-4), published


@pytest.mark.parametrize(("mode", "by"), [("dev", "whole"), ("block", "block"), ("layer", "sublayer")])
@pytest.mark.parametrize("target", ["quarel", "boolq"])
def test_grand(golden, encoder_decoder, mode, by, target):
    tuned, sources, _, batches = encoder_decoder
    entry = golden("ensemble", "similarity_from_model.json")
    few = target in TWO_CLASSES
    count = (6 if few else 10) if mode == "dev" else (3 if few else 5)
    group, found = grouping(tuned.backbone, by), {}
    for weights in sources.values():
        load(tuned, weights)
        total = {}
        for batch in batches[:count]:
            losses, tokens = example_losses(tuned(batch), batch["labels"]), (batch["labels"] != -100).sum(1)
            for name, value in batch_norms(tuned, (losses * tokens).sum() / tokens.sum(), group).items():
                total[name] = total.get(name, 0.0) + value
        for name, value in total.items():
            found.setdefault(name, []).append(value)
    expected = entry["results"][f"GraNd/{mode}/{target}"]
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name
    files = {"result.tsv"} if mode == "dev" else {f"{name}_result.tsv" for name in places(tuned.backbone, by)}
    assert files == set(entry["files"][f"GraNd/{mode}"])


def test_cosine_of_block_states(golden, encoder_decoder):
    tuned, sources, target, batches = encoder_decoder
    entry = golden("ensemble", "similarity_from_model.json")
    with torch.no_grad(), block_states(tuned) as seen:
        load(tuned, target)
        tuned(batches[0])
        known, found = dict(seen), {}
        for weights in sources.values():
            load(tuned, weights)
            tuned(batches[0])
            for name, value in state_cosines(known, seen, batches[0]).items():
                found.setdefault(name, []).append(value)
    expected = entry["results"]["block_cosine"]
    assert {f"{name}_result.tsv" for name in found} == set(entry["files"]["block_cosine"])
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name


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
