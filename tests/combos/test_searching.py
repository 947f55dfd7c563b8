"""The searches and votes as commands."""

from __future__ import annotations

import json

import pytest
import torch

from deltatune.combos.search_templates import Vocabulary, spelled
from deltatune.combos.untouched import Untouched
from deltatune.core import BackboneConfig, load_backbone, load_task
from deltatune.core.data import read_task_file
from deltatune.core.files import read_json, read_text
from deltatune.core.run import read_records
from deltatune.core.tune_config import TaskChoice, TuneConfig


def test_label_words_are_found_and_taken_by_task(few, task, command, refused, tmp_path):
    words = [*few[:4], "--device", "cpu", "--shots", 3, "--seed", 1]
    said = command("search", "labels", *words, "--k_likely", 5, "--pairs", 7, "--out_dir", tmp_path / "words")
    assert "tried 7 candidates, chosen by accuracy on dev: the untouched model" in said
    assert "the task's own template and words, untouched:" in said
    records = read_records(tmp_path / "words")
    assert [row["rank"] for row in records] == list(range(1, 8))
    values = [row["dev"] for row in records]
    assert values == sorted(values, reverse=True)
    assert min(row["train"] for row in records) >= 0.5
    found = read_task_file(tmp_path / "words/task.yaml")
    assert dict(found.label_words) == records[0]["label_words"]
    assert load_task(tmp_path / "words/task.yaml").train == load_task(task).train
    lines = read_text(tmp_path / "words/candidates.txt").splitlines()
    assert json.loads(lines[0].split("\t")[1]) == records[0]["label_words"]
    assert "finished already" in command(
        "search", "labels", *words, "--k_likely", 5, "--pairs", 7, "--out_dir", tmp_path / "words"
    )
    joint = [
        "--templates",
        tmp_path / "words/candidates.txt",
        "--top_templates",
        1,
        "--seed_words",
        "{negative: dull, positive: lovely}",
    ]
    joint += ["--k_likely", 20, "--k_neighbors", 2, "--pairs", 2, "--methods", "bias", *few[6:]]
    said = command("search", "labels", *words, *joint, "--out_dir", tmp_path / "joint")
    assert "tried 2 candidates, chosen by accuracy on dev: bias tuned with each" in said
    runs = [read_json(tmp_path / f"joint/runs/00{number}/run.json") for number in range(2)]
    best = max(runs, key=lambda run: run["scores"]["dev"]["value"])
    assert dict(read_task_file(tmp_path / "joint/task.yaml").label_words) == best["config"]["task"]["label_words"]
    assert "leave --form head out" in refused("search", "labels", *words, "--form", "head", "--out_dir", tmp_path / "x")


def test_templates_are_found_and_taken_by_task(command, tmp_path):
    words = ["--filler", "world/t5", "--model", "world/m0", "--task", "world/aspect-0", "--device", "cpu", "--shots", 2]
    said = command("search", "templates", *words, "--max_test", 4, "--beam", 4, "--out_dir", tmp_path / "out")
    records = read_records(tmp_path / "out")
    assert f"tried {len(records)} candidates" in said
    assert 1 <= len(records) <= 4
    found = read_task_file(tmp_path / "out/task.yaml")
    assert found.template == records[0]["template"]
    assert "*mask*" in found.template
    assert load_task(tmp_path / "out/task.yaml", max_train=3).labels == load_task("world/aspect-0", max_train=3).labels


def test_words_of_a_vocabulary_without_space_marks():
    filler = load_backbone(BackboneConfig("world/t5", device="cpu"))
    vocabulary = Vocabulary.of(filler.model, filler.tokenizer)
    blank, word = vocabulary.blank, vocabulary.encode(" good")[0]
    assert vocabulary.forbidden == ()
    assert spelled([blank, word, blank - 1], filler.tokenizer) == ["<extra_id_0>", "▁good", "<extra_id_1>"]


def test_the_untouched_model_is_scored_as_a_zero_shot_run(few, task, command, tmp_path):
    from deltatune.combos.asking import template_text

    command("run", "--methods", "none", *few, "--out_dir", tmp_path / "zero")
    config = TuneConfig(BackboneConfig(few[1], form="prompt", device="cpu"), TaskChoice(few[3]), ())
    asked = Untouched.of(config)
    own = asked.task.config
    value = asked.judge(template_text(own, 1, "manual"), own.label_words)
    assert value == pytest.approx(read_json(tmp_path / "zero/run.json")["scores"]["dev"]["value"])
    usable = [asked.word(number) for number in torch.nonzero(asked.begins_word).flatten().tolist()]
    assert {"dull", "lovely"} <= set(usable)
    assert not any(word.startswith(("[", "##")) for word in usable)


def test_a_vote(few, command, refused, tmp_path):
    grid = ["grid", *few, "--methods", "[bias]", "--rates", "[1e-2, 1e-3]", "--seeds", "[1, 2]", "--out_dir", tmp_path / "grid"]
    command(*grid, "--form", "prompt-demo", "--demos.contexts", 2, "--templates", "[manual]")
    command("grid", *few, "--methods", "[bias]", "--rates", "[1e-2]", "--seeds", "[1, 2]", "--out_dir", tmp_path / "plain")
    runs = f"[{tmp_path / 'grid'}, {tmp_path / 'plain'}]"
    said = command("vote", "--runs", runs, "--device", "cpu", "--out_dir", tmp_path / "vote")
    assert "chosen on dev among 8 runs" in said
    rows = read_records(tmp_path / "vote")
    assert len(rows) == 2 * 2 * 4  # seeds, splits, three voters and all
    one = next(row for row in rows if row["voter"].endswith("with demonstrations, bias") and row["split"] == "test")
    kept = [read_json(path) for path in (tmp_path / "grid/runs").glob(f"*seed-{one['seed']}/run.json")]
    best = max(kept, key=lambda run: run["scores"]["dev"]["value"])
    assert one["value"] in [run["scores"]["test"]["value"] for run in kept if run["scores"]["dev"] == best["scores"]["dev"]]
    assert "is the only voter" in refused(
        "vote", "--runs", tmp_path / "grid", "--out_dir", tmp_path / "no", "--voters", "[template]"
    )
    assert "has no run of" in refused("vote", "--runs", runs, "--out_dir", tmp_path / "no", "--voters", "[template, seed]")
