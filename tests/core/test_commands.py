"""Whole commands on the bundled example: a delta is tuned, scored, used, merged, measured, exported and taken back."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import transformers

from deltatune.core import checkpoint, cli
from deltatune.core.cli.tune import forget_hosts
from deltatune.core.evaluation import evaluate
from deltatune.core.files import read_json
from deltatune.core.reuse import open_run
from deltatune.core.run import read_records

CPU = ("--device", "cpu")


def same_scores(record, other):
    keys = ("value", "metric", "loss", "stderr", "n")
    assert {key: record[key] for key in keys} == {key: other[key] for key in keys}


def numbers(printed, group):
    """The cells of the row of `group` in a printed table, from the third on."""
    row = next(line for line in printed.splitlines() if line.startswith(f"│ {group} "))
    return [float(cell.replace(",", "")) for cell in row.strip("│").split("│")[2:]]


def logits(run):
    """Of the test examples, by the run itself: (batch, (B, C))."""
    opened = open_run(run)
    backbone, task = opened.backbone(device="cpu"), opened.task_choice().load()
    form = opened.format(backbone, task)
    batch = form.collate(form.features(task.test))
    with torch.no_grad():
        return batch, opened.attach(backbone)(batch)


@pytest.fixture(scope="module")
def lora(tune_reviews, tmp_path_factory):
    """A finished LoRA run with a head."""
    out = tmp_path_factory.mktemp("lora") / "run"
    assert cli.main([*tune_reviews, "--delta", "LoRA", "--delta.rank", "4", "--out_dir", str(out), "--tag", "größer"]) == 0
    return out


def test_tune_leaves_a_run(lora):
    assert sorted(path.name for path in lora.iterdir()) == ["config.yaml", "delta", "records.jsonl", "run.json"]
    about, records = read_json(lora / "run.json"), read_records(lora)
    assert (about["status"], about["tag"], about["command"], about["device"]) == ("finished", "größer", "deltatune tune", "cpu")
    assert about["data"]["train"] == 24
    assert about["trainable"] == {"LoRA": 2 * 2 * 4 * (64 + 64), "Head": 64 * 64 + 64 + 2 * 64 + 2}
    assert [(r["kind"], r["split"], r["step"]) for r in records] == [
        ("curve", "dev", 3),  # an epoch of 24 examples in batches of 8
        ("result", "dev", 3),
        ("result", "test", 3),
    ]
    assert {r["tag"] for r in records} == {"größer"}
    for record in records[1:]:
        same_scores(record, about["scores"][record["split"]])
    saved = checkpoint.read(lora)
    assert saved.about.pop("settings") == {key: about["config"][key] for key in ("backbone", "task")}
    assert saved.about == {
        "task": about["config"]["task"]["task"],
        "labels": ["negative", "positive"],
        "metric": "accuracy",
        "form": "head",
        "data_digest": about["data"]["digest"],
        "step": 3,
    }
    assert saved.base["digest"] == about["base"]["digest"]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_evaluate_finds_the_scores_that_tune_recorded(lora, command, split):
    before = read_records(lora)
    printed = command("evaluate", "--run", lora, "--split", split, *CPU)
    *kept, record = read_records(lora)
    assert kept == before
    assert (record["kind"], record["split"], record["delta"]) == ("evaluation", split, str(lora))
    same_scores(record, read_json(lora / "run.json")["scores"][split])
    assert record["base"]["digest"] == record["tuned_on"]["digest"]
    assert f"{record['value']:.4f}" in printed


def test_evaluate_writes_its_predictions_in_order(lora, reviews, command, tmp_path):
    file = tmp_path / "found.jsonl"
    command("evaluate", "--run", lora, "--predictions", file, "--max_examples", 5, *CPU)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [f"test-{number}" for number in range(5)]
    _, scores = logits(lora)
    names = ("negative", "positive")
    assert [row["prediction"] for row in rows] == [names[i] for i in scores[:5].argmax(dim=1).tolist()]
    assert read_records(lora)[-1]["n"] == 5


def test_predict_adds_labels_by_name_and_keeps_everything_else(lora, reviews, command, tmp_path, capsys):
    texts = [json.loads(line)["text"] for line in reviews.with_name("test.jsonl").read_text(encoding="utf-8").splitlines()]
    texts[2] = "the \u2028 soup was \u85b7 größer"  # a line separator inside a text ends no line
    rows = [{"text": text, "n": number, "note": "ü\u2029"} for number, text in enumerate(texts)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file, found = tmp_path / "in.jsonl", tmp_path / "new/out.jsonl"
    file.write_text("\ufeff" + "\r\n".join([*lines[:4], "", *lines[4:]]), encoding="utf-8", newline="")
    command("predict", "--run", lora, "--input", file, "--output", found, *CPU)
    text = found.read_text(encoding="utf-8")
    answers = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [{key: row[key] for key in ("text", "n", "note")} for row in answers] == rows
    assert "größer" in text
    _, scores = logits(lora)
    names = [("negative", "positive")[i] for i in scores.argmax(dim=1).tolist()]
    assert [row["prediction"] for i, row in enumerate(answers) if i != 2] == names[:2] + names[3:]
    assert command("predict", "--run", lora, "--input", file, *CPU) == text


@pytest.mark.parametrize(
    ("delta", "form", "kind", "exact"),
    [
        (["LoRA", "--delta.targets", "[query,value,output,expand,contract]"], "head", "SequenceClassification", False),
        (["Full"], "head", "SequenceClassification", True),
        (["Modules", "--delta.patterns", "['*.value.*','*LayerNorm*']"], "head", "SequenceClassification", True),
        (["BitFit"], "head", "SequenceClassification", False),
        (["Head"], "head", "SequenceClassification", True),
        (["LoRA"], "prompt", "MaskedLM", False),
        (["Full"], "prompt", "MaskedLM", True),
        (["BitFit"], "prompt", "MaskedLM", False),
    ],
)
def test_a_merged_model_has_the_same_logits_without_deltatune(tune_reviews, reviews, command, tmp_path, delta, form, kind, exact):
    run, merged = tmp_path / "run", tmp_path / "merged"
    command(*tune_reviews, "--delta", *delta, "--form", form, "--lr", "0.01", "--out_dir", run)
    command("merge", "--run", run, "--out_dir", merged)
    batch, expected = logits(run)
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(merged)
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    assert (
        tokenizer("the soup was lovely .").input_ids
        == open_run(run).backbone(device="cpu").tokenizer("the soup was lovely .").input_ids
    )
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        found = model(**inputs).logits
    if form == "prompt":
        rows, columns = (batch["input_ids"] == tokenizer.mask_token_id).nonzero(as_tuple=True)
        found = found[rows, columns]
    torch.testing.assert_close(found, expected, atol=0 if exact else 1e-5, rtol=0)
    if form == "head":
        assert model.config.id2label == {0: "negative", 1: "positive"}


def test_merge_adds_lora_to_what_a_full_fine_tuning_left(tune_reviews, reviews, command, tmp_path):
    config = tmp_path / "both.yaml"
    config.write_text("also:\n- class_path: LoRA\n  init_args: {rank: 2}\n", encoding="utf-8")
    run, merged = tmp_path / "run", tmp_path / "merged"
    command(*tune_reviews, "--config", config, "--delta", "Full", "--lr", "0.01", "--out_dir", run)
    command("merge", "--run", run, "--out_dir", merged)
    batch, expected = logits(run)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(merged)
    with torch.no_grad():
        found = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("delta", "reason"),
    [("Houlsby", "its bottleneck is not linear"), ("SoftPrompt", "its positions are not weights"), ("Prefix", "")],
)
def test_adapters_and_prompts_are_not_merged(tune_reviews, command, refused, tmp_path, delta, reason):
    command(*tune_reviews, "--delta", delta, "--out_dir", tmp_path / "run")
    line = refused("merge", "--run", tmp_path / "run", "--out_dir", tmp_path / "merged")
    assert line.startswith(f"deltatune merge: error: merge: {delta} is not part of the base's own weights ({reason}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_distance_by_hand(lora, tune_reviews, command, tmp_path):
    other = tmp_path / "other"
    command(*tune_reviews, "--delta", "LoRA", "--delta.rank", "4", "--out_dir", other, "--init_seed", 1)
    left, right = checkpoint.read(lora), checkpoint.read(other)
    names = [name for name in left.weights if name not in left.head]
    sides = [torch.cat([end.weights[name].double().flatten() for name in names]) for end in (left, right)]
    gap, lengths = (sides[0] - sides[1]).norm(), [side.norm() for side in sides]
    found = numbers(command("distance", "--left", lora, "--right", other), "all")
    expected = [2048, gap, gap / 2048**0.5, sides[0] @ sides[1] / lengths[0] / lengths[1], *lengths]
    assert found == pytest.approx([float(value) for value in expected], rel=1e-5)
    assert numbers(command("distance", "--left", lora, "--right", lora), "all")[1:4] == [0, 0, 1]
    blocks = command("distance", "--left", lora, "--right", other, "--by", "block", "--head")
    assert all(name in blocks for name in ("bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler.dense", "classifier"))
    assert "bert.encoder.layer.1.attention.self.value.lora_B.weight" in command(
        "distance", "--left", lora, "--right", other, "--by", "tensor"
    )


def test_distance_of_two_models_is_the_length_of_the_difference(tune_reviews, reviews, command, tmp_path):
    run, merged = tmp_path / "run", tmp_path / "merged"
    command(*tune_reviews, "--delta", "Full", "--out_dir", run)
    command("merge", "--run", run, "--out_dir", merged)
    saved = checkpoint.read(run)
    length = sum(float(w.double().square().sum()) for n, w in saved.weights.items() if n not in saved.head) ** 0.5
    printed = command("distance", "--left", reviews.with_name("model"), "--right", merged)
    assert numbers(printed, "all")[1] == pytest.approx(length, rel=1e-5)


def test_export_and_import_give_the_scores_back(lora, reviews, command, tmp_path):
    adapter, back = tmp_path / "adapter", tmp_path / "back"
    command("export", "--run", lora, "--out_dir", adapter)
    assert sorted(path.name for path in adapter.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    words = ("import", "--adapter", adapter, "--model", reviews.with_name("model"), "--out_dir", back, "--task", reviews)
    assert "LoRA, Head taken from" in command(*words)
    one, other = checkpoint.read(lora), checkpoint.read(back)
    assert list(one.weights) == list(other.weights)
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    command("evaluate", "--run", back, "--split", "test", *CPU)
    same_scores(read_records(back)[-1], read_json(lora / "run.json")["scores"]["test"])
    assert "is finished already" in command(*words)


def test_scores_of_python_and_of_the_command_are_one(lora):
    opened = open_run(lora)
    backbone, task = opened.backbone(device="cpu"), opened.task_choice().load()
    scores = evaluate(opened.attach(backbone), opened.format(backbone, task), task.dev)
    same_scores(scores.numbers(), read_json(lora / "run.json")["scores"]["dev"])


def test_the_program_runs_as_a_module(lora):
    words = [sys.executable, "-m", "deltatune.core", "distance", "--left", str(lora), "--right", str(lora)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2,048" in done.stdout


def test_a_pair_under_the_names_of_the_task(reviews, command, refused, tmp_path):
    folder, run = tmp_path / "pairs [a/b]", tmp_path / "run [/x]"  # brackets are no markup
    folder.mkdir(parents=True)
    rows = [
        {"premise": "the soup was cold .", "claim": f"the {word} was cold .", "gold": "yn"[i]}
        for i, word in enumerate(("soup", "boat"))
    ]
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "pairs.yaml").write_text(
        "reader: jsonl\nmetric: accuracy\ntexts: [premise, claim]\nlabel: gold\n", encoding="utf-8"
    )
    words = ("--model", reviews.with_name("model"), "--task", folder / "pairs.yaml", *CPU, "--train.steps", 2)
    assert str(run) in command("tune", *words, "--delta", "BitFit", "--out_dir", run)
    own = command("predict", "--run", run, "--input", folder / "test.jsonl", *CPU).splitlines()
    file = tmp_path / "common.jsonl"
    file.write_text("".join(json.dumps({"text": r["premise"], "text2": r["claim"]}) + "\n" for r in rows), encoding="utf-8")
    common = command("predict", "--run", run, "--input", file, *CPU).splitlines()
    assert [json.loads(line)["prediction"] for line in own] == [json.loads(line)["prediction"] for line in common]
    file.write_text('{"text": "the soup was cold ."}\n', encoding="utf-8")
    assert 'no "text" and "text2" with a text in it' in refused("predict", "--run", run, "--input", file)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the tracker is not installed")
def test_numbers_go_to_a_tracker(tune_reviews, command, tmp_path):
    command(*tune_reviews, "--delta", "BitFit", "--log_with", "tensorboard", "--out_dir", tmp_path / "run")
    files = [path.name for path in (tmp_path / "run/logs/deltatune").glob("events*")]
    assert files
    assert not [name for name in files if socket.gethostname() in name]


def test_event_files_name_no_machine(tmp_path):
    (tmp_path / "deltatune").mkdir()
    for name in ("1700000000.node-7.cluster.org.4711.0", "1700000000.node-7.4712.1", "1700000001.4713.0", "1700000002.box"):
        (tmp_path / "deltatune" / f"events.out.tfevents.{name}").touch()
    forget_hosts(tmp_path)
    found = sorted(path.name.removeprefix("events.out.tfevents.") for path in (tmp_path / "deltatune").iterdir())
    assert found == ["1700000000.4711.0", "1700000000.4712.1", "1700000001.4713.0", "1700000002"]
