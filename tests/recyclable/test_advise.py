"""`advise`: evidence, rule, budget, foreign adapters, changed tokenizers."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from deltatune.core import cli as core
from deltatune.core.evaluation import Scores
from deltatune.core.evidence import Clock, Comparison, constant
from deltatune.core.files import read_json, read_text, write_text
from deltatune.core.run import read_records
from deltatune.recyclable.advice import TRIED, Evidence, decide
from deltatune.recyclable.tokenizers import compare

LABELS = [0, 1] * 50


def scored(right):
    """Scores of a model that gets the first `right` of 100 examples right."""
    predictions = [label if row < right else 1 - label for row, label in enumerate(LABELS)]
    hits = [float(a == b) for a, b in zip(predictions, LABELS, strict=True)]
    return Scores(right / 100, "accuracy", 0.5, 0.05, 100, predictions, hits)


def advice(**tried):
    return decide(
        Evidence(scored(90), {name: scored(right) for name, right in tried.items()}, constant("accuracy", LABELS), LABELS)
    )


@pytest.mark.parametrize(
    ("expected", "tried"),
    [
        ("reuse as it is", {"untouched": 88, "initialized": 88, "distilled": 70, "fresh": 60}),
        ("initialize from it", {"untouched": 70, "initialized": 92, "distilled": 80, "fresh": 75}),
        ("distill from it", {"untouched": 55, "initialized": 60, "distilled": 92, "fresh": 75}),
        ("tune afresh", {"untouched": 55, "initialized": 60, "distilled": 62, "fresh": 90}),
        ("tune afresh", {"untouched": 60, "initialized": 90, "distilled": 62, "fresh": 90}),
        ("undecided", {"untouched": 50, "initialized": 50, "distilled": 50, "fresh": 50}),
        ("undecided", {"untouched": 51, "initialized": 50, "distilled": 50, "fresh": 50}),
    ],
)
def test_the_rule(expected, tried):
    verdict = advice(**tried)
    assert verdict.advice == expected
    assert (expected in TRIED.values()) == (expected != "undecided")
    if expected != "undecided":
        assert verdict.margin == pytest.approx((max(tried["fresh"], tried[_key(expected)]) - tried["fresh"]) / 100)


def _key(expected):
    return next(name for name, meant in TRIED.items() if meant == expected)


def test_the_spread_of_a_difference_is_over_the_same_examples():
    both = scored(90), scored(80)
    difference, error = Comparison(LABELS).gap(*both)
    assert difference == pytest.approx(0.1)
    assert error == pytest.approx(torch.tensor([1.0] * 10 + [0.0] * 90).std().item() / 10)
    found = [Scores(s.value, "macro_f1", s.loss, None, 100, s.predictions) for s in both]
    difference, resampled = Comparison(LABELS).gap(*found)
    assert resampled == pytest.approx(error, rel=0.3)


def test_a_budget_names_what_would_do():
    with pytest.raises(ValueError, match=r"--budget 1 s is too small for it: about 15 s are needed"):
        Clock(1.0).require(10.0, "it")


@pytest.fixture(scope="module")
def peft_folder(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deltas")
    shutil.copytree(bench / "runs/full", folder / "full")
    assert core.main(["export", "--run", str(bench / "runs/lora"), "--out_dir", str(folder / "peft")]) == 0
    return folder


def test_every_delta_gets_a_row_with_evidence(bench, command, peft_folder, tmp_path):
    words = ("advise", "--old-base", bench / "old", "--new-base", bench / "new", "--task", bench / "task.yaml")
    words += ("--deltas", peft_folder, "--budget", 300, "--updates", 3, "--device", "cpu", "--out_dir", tmp_path / "out")
    said = command(*words)
    facts = read_json(tmp_path / "out/run.json")
    assert [row["delta"] for row in facts["deltas"]] == ["full", "peft"]
    assert facts["bases"]["tokenizer"] == "equal"
    assert 0.01 < facts["bases"]["relative"] < 0.2
    for row in facts["deltas"]:
        assert {row["trials"][name]["updates"] for name in ("initialized", "distilled", "fresh")} == {3}
        assert set(row["dev"]) == {"constant", "old_base", "head_alone", "untouched", "initialized", "distilled", "fresh"}
    ours, theirs = facts["deltas"]
    assert ours["known_base"]
    assert not theirs["known_base"]
    assert "PEFT records no digest of the base; checked instead:" in said
    assert ours["dev"]["old_base"]["value"] == read_json(bench / "runs/full/run.json")["scores"]["dev"]["value"]
    assert len(read_records(tmp_path / "out")) == 2
    command(*words[:-1], tmp_path / "again")
    again = read_json(tmp_path / "again/run.json")["deltas"]
    assert [row["dev"] for row in again] == [row["dev"] for row in facts["deltas"]]


def test_a_budget_is_held_or_refused(bench, command, refused, tmp_path):
    words = ("advise", "--old-base", bench / "old", "--new-base", bench / "new", "--task", bench / "task.yaml")
    words += ("--deltas", bench / "runs/adapter", "--device", "cpu", "--batch_size", 4, "--max_train", 16)
    line = refused(*words, "--budget", "0.01", "--out_dir", tmp_path / "refused")
    assert "is too small" in line
    # Twice what it says it needs: how much that is depends on the machine and on what else runs there.
    budget = 2 * int(re.search(r"about (\d+) s are needed", line)[1])
    command(*words, "--budget", budget, "--out_dir", tmp_path / "held")
    assert read_json(tmp_path / "held/run.json")["spent"] < budget * 1.1


def test_deltas_are_tried_in_the_form_in_which_they_were_tuned(bench, command, refused, tmp_path):
    tune = [
        "tune",
        "--model",
        bench / "old",
        "--task",
        bench / "task.yaml",
        "--device",
        "cpu",
        "--delta",
        "LoRA",
        "--form",
        "prompt",
    ]
    asked = tmp_path / "deltas/asked"
    command(*tune, "--train.steps", 2, "--out_dir", asked)
    words = ("advise", "--old-base", bench / "old", "--new-base", bench / "new", "--task", bench / "task.yaml", "--device", "cpu")
    words += ("--deltas", tmp_path / "deltas", "--budget", 300, "--updates", 2)
    command(*words, "--out_dir", tmp_path / "out")
    own = read_json(tmp_path / "out/run.json")["deltas"][0]["dev"]["old_base"]["value"]
    assert own == read_json(asked / "run.json")["scores"]["dev"]["value"]
    assert "tuned in form prompt, and tried is head; give --form prompt" in refused(
        *words, "--form", "head", "--out_dir", tmp_path / "b"
    )
    shutil.copytree(bench / "runs/lora", tmp_path / "deltas/head")
    assert "in several forms (asked in prompt, head in head)" in refused(*words, "--out_dir", tmp_path / "no")


def upgraded(bench, folder, change):
    """The new base with another tokenizer, its word table as long as the tokenizer says."""
    shutil.copytree(bench / "new", folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    change(folder, tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(folder)
    return folder, tokenizer


def test_an_extended_tokenizer_is_said_and_a_permuted_one_refused(bench, command, refused, tmp_path):
    def extend(folder, tokenizer):
        tokenizer.add_tokens(["zyx"])
        tokenizer.save_pretrained(folder)

    def permute(folder, tokenizer):
        words = [token for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])][-2:]
        text = read_text(folder / "tokenizer.json")
        for old, new in ((words[0], "\x00"), (words[1], words[0]), ("\x00", words[1])):
            text = text.replace(f'"{old}":', f'"{new}":')
        write_text(folder / "tokenizer.json", text)

    words = ("advise", "--old-base", bench / "old", "--task", bench / "task.yaml", "--device", "cpu", "--updates", 2)
    words += ("--deltas", bench / "runs/full")
    larger, tokenizer = upgraded(bench, tmp_path / "larger", extend)
    assert compare(AutoTokenizer.from_pretrained(bench / "old"), tokenizer).status == "extended"
    said = command(*words, "--new-base", larger, "--out_dir", tmp_path / "out")
    assert "extended by 1 tokens" in said
    other, _ = upgraded(bench, tmp_path / "other", permute)
    assert "old tokens have another id" in refused(*words, "--new-base", other, "--out_dir", tmp_path / "no")
