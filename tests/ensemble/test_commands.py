"""Every command once, end to end, on a tiny text-to-text model and a tiny encoder."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from deltatune.core import checkpoint
from deltatune.core.files import read_json
from deltatune.core.run import read_records
from deltatune.core.weights import combine

TARGETS = "[world/sentiment-0, world/topic-0]"
LOOK = ("--device", "cpu", "--max_length", "64", "--max_train", "16", "--max_dev", "12", "--max_test", "12")
MEASURES = "[loss, el2n, label_cosine, grand, uniform]"


@pytest.fixture(scope="module")
def weighed(bench, tmp_path_factory):
    """The result of `weights` on the sources of kind LoRA."""
    from deltatune.ensemble.cli import main

    out = tmp_path_factory.mktemp("weighed") / "weights"
    words = ["weights", "--sources", bench / "t5/lora", "--tasks", TARGETS, "--measures", MEASURES, *LOOK, "--out_dir", out]
    assert main(list(map(str, words))) == 0
    return out


def test_sources_of_tasks_with_other_classes_begin_with_equal_values(models, command, tmp_path):
    words = ("--model", models / "encoder", "--delta", "LoRA", "--delta.rank", "2", "--lr", "0", "--train.steps", "1", *LOOK)
    command("tune-all", "--tasks", "[world/sentiment-0, world/topic-0]", *words, "--out_dir", tmp_path / "src")
    two, four = (checkpoint.read(tmp_path / "src" / name) for name in ("sentiment-0", "topic-0"))
    assert two.weights[two.head[-1]].shape != four.weights[four.head[-1]].shape
    assert all(torch.equal(tensor, four.weights[name]) for name, tensor in two.weights.items() if name not in two.head)


def test_a_start_is_the_weighted_sum_without_the_target(bench, weighed, command, tmp_path):
    weights = read_json(weighed / "run.json")["weights"]["loss"]["all"]["topic-0"]
    assert set(weights) == {"sentiment-0", "sentiment-1"}
    assert sum(weights.values()) == pytest.approx(1)
    command("start", "--weights", weighed, "--measure", "loss", "--out_dir", tmp_path / "starts")
    found = checkpoint.read(tmp_path / "starts/topic-0").weights
    parts = [checkpoint.read(bench / "t5/lora" / name).weights for name in weights]
    for name, tensor in combine(parts, list(weights.values())).items():
        torch.testing.assert_close(found[name], tensor)
    lora = ("--delta", "LoRA", "--delta.rank", "2", "--train.steps", "1")
    model = read_json(bench / "t5/lora/topic-0/run.json")["config"]["backbone"]["model"]
    command(
        "tune",
        "--model",
        model,
        "--task",
        "world/topic-0",
        *lora,
        "--start",
        tmp_path / "starts/topic-0",
        *LOOK,
        "--out_dir",
        tmp_path / "run",
    )


def test_a_further_source_costs_its_own_column(bench, weighed, command, tmp_path):
    shutil.copytree(bench / "t5/lora", tmp_path / "sources")
    shutil.copytree(weighed.with_name("weights-cache"), tmp_path / "out-cache")
    words = ("weights", "--tasks", TARGETS, "--measures", MEASURES, *LOOK, "--out_dir", tmp_path / "out")
    command(*words, "--sources", tmp_path / "sources")
    assert read_json(tmp_path / "out/run.json")["measured"] == 0
    shutil.copytree(bench / "t5/lora/topic-0", tmp_path / "sources/another")
    command(*words, "--sources", tmp_path / "sources", "--overwrite")
    assert read_json(tmp_path / "out/run.json")["measured"] == 2 * 4  # targets, measures with scores


def test_every_source_is_scored_on_an_encoder_with_a_fitted_head(bench, command, tmp_path):
    printed = command("test-all", "--sources", bench / "encoder/lora", "--tasks", TARGETS, *LOOK, "--out_dir", tmp_path / "zero")
    assert "topic-0" in printed
    records = read_records(tmp_path / "zero")
    assert {(r["target"], r["source"]) for r in records if r["split"] == "dev"} == {
        (target, source) for target in ("sentiment-0", "topic-0") for source in ("sentiment-0", "sentiment-1", "topic-0")
    }


@pytest.mark.parametrize("kind", ["lora", "adapter", "prefix"])
def test_weights_by_block_are_merged_block_by_block(bench, command, tmp_path, kind):
    words = ("--sources", bench / "t5" / kind, "--tasks", "[world/topic-0]", "--measures", "[grand]", "--by", "block", *LOOK)
    command("weights", *words, "--out_dir", tmp_path / "w")
    by_block = read_json(tmp_path / "w/run.json")["weights"]["grand"]
    if kind != "prefix":  # a prefix is in no block
        assert set(by_block) == {f"{side}_block_{i}" for side in ("encoder", "decoder") for i in range(2)}
        command("start", "--weights", tmp_path / "w", "--blockwise", "--out_dir", tmp_path / "start")
        found = checkpoint.read(tmp_path / "start/topic-0").weights
        name = next(name for name in found if name.startswith("decoder.block.1."))
        row = by_block["decoder_block_1"]["topic-0"]
        expected = sum(weight * checkpoint.read(bench / "t5" / kind / s).weights[name] for s, weight in row.items())
        torch.testing.assert_close(found[name], expected)


def test_products_of_lora_at_full_rank_are_the_sum_of_updates(bench, command, tmp_path):
    parts = [bench / "t5/lora" / name for name in ("sentiment-0", "topic-0")]
    listed = f"[{parts[0]}, {parts[1]}]"
    printed = command(
        "merge", "--parts", listed, "--weights", "[0.3, 0.7]", "--space", "product", "--rank", 4, "--out_dir", tmp_path / "m"
    )
    assert "loses 0.0%" in printed
    ends = [checkpoint.read(part).weights for part in parts]
    found = checkpoint.read(tmp_path / "m")
    scales = [16 / 2, found.configs[0].alpha / 4]
    for name in (n for n in ends[0] if n.endswith("lora_A.weight")):
        other = name.replace("lora_A", "lora_B")
        expected = sum(share * scales[0] * end[other] @ end[name] for share, end in zip((0.3, 0.7), ends, strict=True))
        torch.testing.assert_close(scales[1] * found.weights[other] @ found.weights[name], expected, atol=1e-5, rtol=1e-4)


def test_whole_models_are_averaged(models, command, tmp_path):
    shutil.copytree(models / "t5", tmp_path / "other")
    command(
        "merge", "--parts", f"[{models / 't5'}, {tmp_path / 'other'}]", "--weights", "[0.5, 1.5]", "--out_dir", tmp_path / "m"
    )
    one, two = load_file(models / "t5/model.safetensors"), load_file(tmp_path / "m/model.safetensors")
    assert all(torch.allclose(two[name], 2 * tensor) for name, tensor in one.items())


def test_suggest_gives_a_start_with_evidence(bench, command, tmp_path):
    words = ("--sources", bench / "t5/lora", "--task", "world/sentiment-2", "--folds", 2, "--measures", "[loss]", *LOOK)
    printed = command("suggest", *words, "--out_dir", tmp_path / "s")
    assert "suggestion: start from" in printed
    facts = read_json(tmp_path / "s/run.json")
    assert {row["weighing"] for row in facts["evidence"]} == {"uniform", "best single", "loss", "learned"}
    assert facts["evidence"][0]["weighing"] == facts["chosen"]
    assert all(row["n"] == 16 for row in facts["evidence"])
    assert checkpoint.read(tmp_path / "s/start").head == ()


def test_refusals_are_one_line(bench, refused, tmp_path):
    there = ("--tasks", TARGETS, *LOOK, "--out_dir", tmp_path / "out")
    assert "give the folder above them" in refused("weights", "--sources", tmp_path, *there)
    assert "give a folder of them as --reference" in refused(
        "weights", "--sources", bench / "t5/lora", "--measures", "[kl]", *there
    )
    few = [word if word != "16" else "8" for word in LOOK]
    line = refused("suggest", "--sources", bench / "t5/lora", "--task", "world/sentiment-2", *few, "--out_dir", tmp_path / "s")
    assert "8 training examples" in line


def test_suggest_takes_a_folder_that_peft_wrote(models, command, refused, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSeq2SeqLM

    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base = AutoModelForSeq2SeqLM.from_pretrained(models / "t5", dtype=torch.float32)
            config = peft.LoraConfig(
                task_type="SEQ_2_SEQ_LM", r=2, lora_alpha=4, target_modules=["q", "v"], init_lora_weights=False
            )
            peft.get_peft_model(base, config).save_pretrained(tmp_path / f"sources/adapter-{seed}")
    words = ("--task", "world/sentiment-2", "--folds", 2, "--measures", "[loss]", "--space", "product", *LOOK)
    assert "give it as --model" in refused("suggest", "--sources", tmp_path / "sources", *words, "--out_dir", tmp_path / "s")
    printed = command("suggest", "--sources", tmp_path / "sources", "--model", models / "t5", *words, "--out_dir", tmp_path / "s")
    assert "factored again" in printed
    assert "PEFT record no digest" in printed
    assert checkpoint.read(tmp_path / "s/start").configs[0].rank == 2


def test_everything_may_go_to_the_source_of_the_lowest_loss(bench, command, tmp_path):
    words = ("--sources", bench / "t5/lora", "--tasks", TARGETS, "--measures", "[single, uniform]", "--floor", 0.1, *LOOK)
    command("weights", *words, "--out_dir", tmp_path / "w")
    command("weights", *words[:4], "--measures", "[loss]", *LOOK, "--out_dir", tmp_path / "l")
    weights = read_json(tmp_path / "w/run.json")["weights"]["single"]["all"]
    losses = {(r["target"], r["source"]): r["value"] for r in read_records(tmp_path / "l") if r["kind"] == "score"}
    for target, row in weights.items():
        best = min(row, key=lambda source: losses[target, source])
        assert row == {source: float(source == best) for source in row}
        assert target not in row
    command("start", "--weights", tmp_path / "w", "--measure", "single", "--out_dir", tmp_path / "start")
    assert checkpoint.read(tmp_path / "start/topic-0").about["combined"][0]["coefficient"] == 1.0


def test_the_temperature_is_the_one_of_least_loss_on_dev(bench, command, tmp_path):
    words = ("--sources", bench / "t5/lora", "--tasks", "[world/topic-0]", "--temperatures", "[0, 0.01, 1, .inf]", *LOOK)
    command("weights", *words, "--out_dir", tmp_path / "w")
    facts = read_json(tmp_path / "w/run.json")
    tried = {float(r["temperature"]): r["loss"] for r in read_records(tmp_path / "w") if r["kind"] == "temperature"}
    assert list(tried) == [0, 0.01, 1, float("inf")]
    assert facts["temperatures"]["loss"]["all"]["topic-0"] == min(tried, key=lambda value: tried[value])
    command("weights", *words, "--top_k", 1, "--out_dir", tmp_path / "k")
    kept = read_json(tmp_path / "k/run.json")["weights"]["loss"]["all"]["topic-0"]
    assert sorted(kept.values()) == [0, 1]


def test_weights_of_one_block_merge_the_whole_delta_as_published(bench, command, refused, tmp_path):
    words = ("--sources", bench / "t5/adapter", "--tasks", "[world/topic-0]", "--measures", "[grand]", "--by", "block", *LOOK)
    command("weights", *words, "--out_dir", tmp_path / "w")
    assert "choose from encoder_block_0" in refused("start", "--weights", tmp_path / "w", "--out_dir", tmp_path / "s")
    command("start", "--weights", tmp_path / "w", "--module", "decoder_block_1", "--out_dir", tmp_path / "s")
    row = read_json(tmp_path / "w/run.json")["weights"]["grand"]["decoder_block_1"]["topic-0"]
    parts = [checkpoint.read(bench / "t5/adapter" / name).weights for name in row]
    found = checkpoint.read(tmp_path / "s/topic-0").weights
    for name, tensor in combine(parts, list(row.values())).items():
        torch.testing.assert_close(found[name], tensor)


def test_sources_that_were_tuned_in_bf16_are_weighed_with_fitted_heads(models, command, tmp_path):
    words = ("--model", models / "encoder", "--delta", "LoRA", "--delta.rank", "2", "--train.steps", "2", *LOOK)
    tasks = "[world/sentiment-0, world/topic-0]"
    command("tune-all", "--tasks", tasks, *words, "--precision", "bf16", "--out_dir", tmp_path / "src")
    measures = "[loss, grand, learned]"
    command("weights", "--sources", tmp_path / "src", "--tasks", "[world/aspect-0]", "--measures", measures, *LOOK,
            "--out_dir", tmp_path / "w")  # fmt: skip
    assert all(sum(row["all"]["aspect-0"].values()) == pytest.approx(1, abs=1e-6)
               for row in read_json(tmp_path / "w/run.json")["weights"].values())  # fmt: skip
