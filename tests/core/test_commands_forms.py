"""Every delta in every form a task is asked in, through the commands."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from deltatune.core import checkpoint
from deltatune.core.delta import DELTAS
from deltatune.core.files import read_json
from deltatune.core.reuse import open_run
from deltatune.core.run import read_records

SETTINGS = {
    "LoRA": ("--delta.rank", "2", "--delta.dropout", "0.1"),
    "Houlsby": ("--delta.width", "3"),
    "Prefix": ("--delta.length", "4", "--delta.width", "5"),
    "SoftPrompt": ("--delta.length", "3"),
    "BitFit": (),
    "Full": (),
    "Modules": ("--delta.patterns", "['*.weight']"),
    "Head": (),
}
SCORES = ("value", "metric", "loss", "stderr", "n")
GYM = {
    "train": ["this movie was great\tgood\tgreat\tvery good", "the film is bad\tbad", "a plain film\tplain\tnot good"],
    "dev": ["it was good\tgood\tgreat", "it was terrible\tbad\tterrible"],
    "test": ["this film was plain\tplain"],
}


@pytest.fixture(scope="module")
def gym(tmp_path_factory):
    """A text-to-text task with several answers to a question."""
    folder = tmp_path_factory.mktemp("gym")
    for split, lines in GYM.items():
        (folder / f"talk_16_13_{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "talk.yaml").write_text("reader: gym\nmetric: EM\n", encoding="utf-8")
    return folder / "talk.yaml"


@pytest.fixture(scope="module")
def ratings(reviews, tmp_path_factory):
    """A task with values from 1 to 5 instead of classes; its parts are the same."""
    folder = tmp_path_factory.mktemp("ratings")
    rows = [json.loads(line) for line in reviews.with_name("train.jsonl").read_text(encoding="utf-8").splitlines()]
    values = {"negative": 1.5, "positive": 4.25}
    lines = [json.dumps({"text": row["text"], "score": values[row["label"]] + i % 3 / 4}) for i, row in enumerate(rows)]
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task = {"reader": "jsonl", "texts": ["text"], "label": "score", "metric": "pearson", "regression": [1, 5]}
    task |= {"template": "*cls**sent_0*_it_was*mask*_.*sep+*", "label_words": {"low": "dull", "high": "lovely"}}
    (folder / "ratings.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder / "ratings.yaml"


def check(run, command):
    """Scoring the run again finds the numbers that tuning found, to the last bit; what `run.json` says."""
    about = read_json(run / "run.json")
    for split in ("dev", "test"):
        command("evaluate", "--run", run, "--split", split, "--device", "cpu")
        record = read_records(run)[-1]
        assert {key: record[key] for key in SCORES} == about["scores"][split]
    return about


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("form", ["head", "prompt"])
def test_every_delta_on_an_encoder(tune_reviews, command, refused, tmp_path, delta, form):
    words = (*tune_reviews, "--delta", delta, *SETTINGS[delta], "--form", form, "--out_dir", tmp_path / "run")
    if (delta, form) == ("Head", "prompt"):
        assert "no task head in form 'prompt'" in refused(*words)
        assert not list(tmp_path.iterdir())
        return
    command(*words)
    about = check(tmp_path / "run", command)
    saved = checkpoint.read(tmp_path / "run")
    assert [type(config).__name__ for config in saved.configs] == list(about["trainable"])
    assert ("Head" in about["trainable"]) == (form == "head")
    assert sum(w.numel() for w in saved.weights.values()) == sum(about["trainable"].values())
    assert any(float(w.abs().max()) > 0 for w in saved.weights.values())


@pytest.mark.parametrize("delta", [delta for delta in DELTAS if delta != "Head"])
def test_every_delta_on_a_text_to_text_model(folders, gym, command, tmp_path, delta):
    run = tmp_path / "run"
    words = ("--model", folders["t5-text"], "--task", gym, "--device", "cpu", "--train.steps", 4, "--train.batch_size", 2)
    command("tune", *words, "--delta", delta, *SETTINGS[delta], "--out_dir", run)
    about = check(run, command)
    assert about["scores"]["dev"]["metric"] == "EM"
    assert about["config"]["backbone"]["form"] == "auto"
    assert checkpoint.read(run).about["form"] == "text"
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "the movie was good"}\n', encoding="utf-8")
    [answer] = command("predict", "--run", run, "--input", file, "--device", "cpu").splitlines()
    assert isinstance(json.loads(answer)["prediction"], str)


def test_a_text_to_text_model_learns_one_of_several_answers(folders, gym, command, tmp_path):
    words = ("--model", folders["t5-text"], "--task", gym, "--device", "cpu", "--train.steps", 120, "--train.batch_size", 3)
    command("tune", *words, "--delta", "Full", "--lr", "0.01", "--train.select", "last", "--out_dir", tmp_path / "run")
    file = tmp_path / "in.jsonl"
    rows = [{"text": line.split("\t")[0]} for line in GYM["train"]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = command("predict", "--run", tmp_path / "run", "--input", file, "--device", "cpu")
    answers = [json.loads(line)["prediction"] for line in found.splitlines()]
    assert [answer in line.split("\t")[1:] for answer, line in zip(answers, GYM["train"], strict=True)] == [True] * 3


def test_a_classification_task_as_text(folders, reviews, command, tmp_path):
    words = ("--model", folders["t5-text"], "--task", reviews, "--device", "cpu", "--train.steps", 4)
    command("tune", *words, "--delta", "LoRA", "--out_dir", tmp_path / "run")
    assert check(tmp_path / "run", command)["scores"]["test"]["metric"] == "ACC"


@pytest.mark.parametrize("form", ["head", "prompt"])
def test_a_regression_from_tuning_to_prediction(ratings, reviews, command, tmp_path, form):
    run, model = tmp_path / "run", reviews.with_name("model")
    words = ("tune", "--model", model, "--task", ratings, "--device", "cpu", "--form", form, "--train.steps", 150)
    command(*words, "--delta", "Full", "--lr", "3e-3", "--out_dir", run)
    about = check(run, command)
    assert about["scores"]["test"]["metric"] == "pearson"
    assert about["scores"]["test"]["stderr"] is None  # a correlation is no mean over examples
    assert about["scores"]["test"]["value"] > 0.8
    found = command("predict", "--run", run, "--input", ratings.with_name("test.jsonl"), "--device", "cpu")
    values = [json.loads(line)["prediction"] for line in found.splitlines()]
    assert all(isinstance(value, float) for value in values)
    if form == "prompt":
        assert all(1 <= value <= 5 for value in values)
    assert checkpoint.read(run).weights.get("classifier.weight", torch.zeros(1, 64)).shape == (1, 64)


def test_a_metric_where_less_is_better_keeps_the_least(ratings, reviews, command, tmp_path):
    task = ratings.with_name("errors.yaml")
    task.write_text(ratings.read_text(encoding="utf-8").replace("pearson", "mse"), encoding="utf-8")
    words = ("tune", "--model", reviews.with_name("model"), "--task", task, "--device", "cpu", "--train.steps", 12)
    command(*words, "--delta", "BitFit", "--lr", "0.05", "--train.eval_every", 2, "--out_dir", tmp_path / "run")
    records = read_records(tmp_path / "run")
    curve = {record["step"]: record["value"] for record in records if record["kind"] == "curve"}
    result = next(record for record in records if record["kind"] == "result" and record["split"] == "dev")
    assert len(set(curve.values())) > 2
    assert result["value"] == min(curve.values()) == curve[result["step"]]


def test_a_soft_prompt_where_the_template_shows_it(tune_reviews, reviews, command, tmp_path):
    task = reviews.with_name("shown.yaml")
    text = reviews.read_text(encoding="utf-8").replace("*cls**sent_0*", "*cls**sent_0**prompt*")
    task.write_text(text, encoding="utf-8")
    words = [str(task) if word == str(reviews) else word for word in tune_reviews]
    command(*words, "--delta", "SoftPrompt", "--delta.length", "3", "--form", "prompt", "--out_dir", tmp_path / "run")
    check(tmp_path / "run", command)
    opened = open_run(tmp_path / "run")
    backbone, loaded = opened.backbone(device="cpu"), opened.task_choice().load()
    [feature] = opened.format(backbone, loaded).features(loaded.dev[:1])
    words = len(loaded.dev[0].texts[0].split())
    assert feature["input_ids"][1 + words : 4 + words] == [-1, -2, -3]


def test_deltas_that_act_together(tune_reviews, command, tmp_path):
    config = tmp_path / "three.yaml"
    config.write_text(
        "delta:\n  class_path: LoRA\n  init_args: {rank: 2}\n"
        "also:\n- class_path: BitFit\n- class_path: SoftPrompt\n  init_args: {length: 3}\n",
        encoding="utf-8",
    )
    command(*tune_reviews, "--config", config, "--form", "prompt", "--out_dir", tmp_path / "run")
    about = check(tmp_path / "run", command)
    assert list(about["trainable"]) == ["LoRA", "BitFit", "SoftPrompt"]
    assert about["config"]["learning_rate"] == 1e-3  # the smallest that one of them asks for
    weights = checkpoint.read(tmp_path / "run").weights
    assert {name.rpartition(".")[2] for name in weights} == {"weight", "bias", "soft_prompt"}
