"""What a run was made of: recorded, compared before a run is taken for done or gone on with, and compared with a start."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltatune.core import checkpoint, cli
from deltatune.core.files import read_json, write_json
from deltatune.core.run import read_records


@pytest.fixture
def mine(reviews, tmp_path):
    """A copy of the example that a test may change: the words of a short run on it, without --out_dir, and its folder."""
    folder = shutil.copytree(reviews.parent, tmp_path / "reviews")
    words = ["tune", "--model", folder / "model", "--task", folder / "task.yaml", "--device", "cpu", "--delta", "LoRA"]
    return [*words, "--delta.rank", 2, "--train.steps", 2, "--train.batch_size", 4], folder


def swap_labels(folder):
    file = folder / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    other = {"negative": "positive", "positive": "negative"}
    lines = [json.dumps({**row, "label": other[row["label"]]}) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")


def raise_weights(folder):
    file = folder / "model/model.safetensors"
    save_file({name: tensor + 0.01 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def lower_case(folder):
    file = folder / "model/tokenizer_config.json"
    file.write_text(json.dumps({**read_json(file), "model_max_length": 17}), encoding="utf-8")


def other_template(folder):
    file = folder / "task.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("_it_was", "_this_was"), encoding="utf-8")


CHANGES = {
    "data": (swap_labels, "the data of task"),
    "task file": (other_template, "the data of task"),
    "weights": (raise_weights, "model "),
    "tokenizer": (lower_case, "the configuration or tokenizer of model"),
}


@pytest.mark.parametrize("status", ["finished", "running"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_whose_data_or_model_changed_under_their_names_is_not_taken_for_done(mine, command, refused, change, status):
    words, folder = mine
    out = folder.parent / "run"
    command(*words, "--out_dir", out)
    about = read_json(out / "run.json")
    write_json(out / "run.json", about | {"status": status})
    alter, what = CHANGES[change]
    alter(folder)
    line = refused(*words, "--out_dir", out)
    assert f"--out_dir {out}: {what}" in line
    assert "changed since this run began (digest " in line
    assert "--overwrite" in line
    assert read_json(out / "run.json") == about | {"status": status}
    assert "is finished already" not in command(*words, "--out_dir", out, "--overwrite")
    assert "is finished already" in command(*words, "--out_dir", out)


def test_a_model_that_was_only_written_again_is_the_same(mine, command):
    words, folder = mine
    command(*words, "--out_dir", folder.parent / "run")
    file = folder / "model/model.safetensors"
    os.utime(file, ns=(1, 1))
    assert "is finished already" in command(*words, "--out_dir", folder.parent / "run")


def test_a_start_that_changed_under_its_name_is_noticed_and_recorded(mine, command, refused):
    words, folder = mine
    start, out = folder.parent / "start", folder.parent / "run"
    command(*words, "--out_dir", start)
    command(*words, "--start", start, "--out_dir", out)
    about = read_json(out / "run.json")["start"]
    assert about["digest"] == checkpoint.describe(start / "delta")["tensors_sha256"]
    assert about["tuned_on"]["digest"] == read_json(out / "run.json")["base"]["digest"]
    command(*words, "--init_seed", 1, "--out_dir", start, "--overwrite")
    assert f"--start {start} changed since" in refused(*words, "--start", start, "--out_dir", out)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (("--delta.alpha", 32), "LoRA.alpha 16 and 32"),
        (("--delta.targets", "[key,value]"), "LoRA.targets [query, value] and [key, value]"),
    ],
)
def test_a_start_of_other_settings_is_refused(mine, command, refused, settings, found):
    words, folder = mine
    command(*words, "--out_dir", folder.parent / "start")
    line = refused(*words, *settings, "--start", folder.parent / "start", "--out_dir", folder.parent / "run")
    assert f"its deltas and those asked for have other settings ({found})" in line
    assert not (folder.parent / "run").exists()
    other = ("--delta.init", "fan_rank", "--delta.dropout", 0.1)  # these act at the start and in training only
    command(*words, *other, "--start", folder.parent / "start", "--out_dir", folder.parent / "run")


def test_a_head_for_other_labels_is_not_taken_over(mine, command):
    words, folder = mine
    start, out, still = folder.parent / "start", folder.parent / "run", ("--lr", "0", "--train.select", "last")
    command(*words, "--lr", "0.01", "--out_dir", start)
    command(*words, *still, "--start", start, "--init_seed", 5, "--out_dir", out)
    assert all(torch.equal(w, checkpoint.read(start).weights[name]) for name, w in checkpoint.read(out).weights.items())
    task = folder / "task.yaml"
    task.write_text(task.read_text(encoding="utf-8").replace("[negative, positive]", "[positive, negative]"), encoding="utf-8")
    printed = command(*words, *still, "--start", start, "--init_seed", 5, "--out_dir", folder.parent / "swapped")
    assert "note: the head starts afresh" in printed
    one, other = checkpoint.read(start), checkpoint.read(folder.parent / "swapped")
    assert {name for name, w in other.weights.items() if not torch.equal(w, one.weights[name])} >= {"classifier.weight"}
    assert all(torch.equal(other.weights[name], w) for name, w in one.weights.items() if name not in one.head)


def test_records_name_every_seed_and_the_data(mine, command):
    words, folder = mine
    out = folder.parent / "run"
    command(*words, "--shots", 2, "--sample_seed", 3, "--data_seed", 4, "--train.dropout_seed", 9, "--out_dir", out)
    digest = read_json(out / "run.json")["data"]["digest"]
    for record in read_records(out):
        seeds = ("init_seed", "data_seed", "dropout_seed", "sample_seed", "shots")
        assert [record[name] for name in seeds] == [0, 4, 4, 3, 2]
        assert record["data_digest"] == digest


def test_two_deltas_of_one_kind_are_counted_together(mine, tmp_path):
    words, _ = mine
    config = tmp_path / "two.yaml"
    config.write_text("also:\n- class_path: LoRA\n  init_args: {rank: 3, targets: [key]}\n", encoding="utf-8")
    assert cli.main([*map(str, words), "--config", str(config), "--out_dir", str(tmp_path / "run")]) == 0
    counted = read_json(tmp_path / "run/run.json")["trainable"]
    weights = checkpoint.read(tmp_path / "run").weights
    assert counted["LoRA"] == sum(w.numel() for name, w in weights.items() if "lora_" in name) == 2 * (2 * 2 + 3) * 128
