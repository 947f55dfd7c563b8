"""Scores from logits, models and gradients against the reference vectors of the published program."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import untie, wrap
from deltatune.core.delta import attach
from deltatune.core.legacy import infer_config, rename
from deltatune.ensemble.gradients import batch_norms, example_losses
from deltatune.ensemble.matrix import published_text
from deltatune.ensemble.modules import block_states, grouping, places, state_cosines
from deltatune.ensemble.taxonomy import extended_tasks, qa_categories, qa_tasks
from deltatune.ensemble.token_scores import TokenScores

SCORES = {"Loss": "loss", "EL2N": "el2n", "Cosine_of_Logits_and_Labels": "label_cosine", "KL_divergence": "kl"}
TWO_CLASSES = ("boolq", "mc_taco")


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
