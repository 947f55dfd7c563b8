"""The model card of an exported adapter."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from deltatune.core.card import model_card, public
from deltatune.core.checkpoint import Saved
from deltatune.core.data import published_source
from deltatune.core.delta import LoRA
from deltatune.core.files import read_json
from deltatune.core.reuse import TunedRun, open_run

ROOT = Path(__file__).parents[2]
BASE = {"name": "bert-base-uncased", "commit": "86b5e0934494bd15c9632b12f734a8a67f723594", "digest": "ab" * 32, "type": "bert"}


def test_the_card_beside_an_export_holds_what_the_run_recorded(tune_reviews, command, tmp_path):
    run, out = tmp_path / "alice" / "run", tmp_path / "peft"
    command(*tune_reviews, "--delta", "LoRA", "--delta.rank", "4", "--out_dir", run)
    command("export", "--run", run, "--out_dir", out)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    card, facts = ModelCard.load(out / "README.md"), read_json(run / "run.json")
    assert card.data.to_dict() == {"library_name": "peft", "tags": ["deltatune", "lora", "bert"], "metrics": ["accuracy"]}
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.text, flags=re.M))
    assert rows["sha256 of its tensors"] == facts["base"]["digest"]
    assert rows["examples"] == "train 24, dev 12, test 13"
    assert (rows["rank"], rows["updates"], rows["torch"]) == ("4", "4", facts["versions"]["torch"])
    test = facts["scores"]["test"]
    assert f"| test | accuracy | {test['value']:.4f} | {test['stderr']:.4f} | 13 |" in card.text
    assert "Seeds: initial values 0, order of examples 0, dropout 0." in card.text
    assert "deltatune tune --out_dir run --model model --task task.yaml --delta LoRA --delta.rank 4" in card.text
    assert "hu2022lora" in card.text
    assert str(tmp_path) not in card.content
    assert "alice" not in card.content
    command("export", "--run", run, "--out_dir", out)  # over an earlier export


def test_a_snapshot_does_not_carry_the_scores_of_the_end(tune_reviews, command, tmp_path):
    run = tmp_path / "run"
    command(*tune_reviews, "--delta", "LoRA", "--train.snapshots", "2", "--out_dir", run)
    opened = open_run(Path(f"{run}@2"))
    assert "## Scores" not in model_card(opened)
    assert "| of update | 2 |" in model_card(opened)
    assert "## Scores" in model_card(open_run(run))


def test_the_seeds_of_a_grid_are_summed_up(tune_reviews, command, tmp_path):
    command("grid", *tune_reviews[1:], "--delta", "LoRA", "--seeds", "[3, 5]", "--out_dir", tmp_path / "grid")
    test = read_json(tmp_path / "grid/grid.json")["cells"][0]["test"]
    told = f"over the seeds 3, 5: dev .* test {test['mean']:.4f} ± {test['deviation']:.4f}\\.\n"
    assert re.search(told, model_card(open_run(tmp_path / "grid/seed-5")))


def _alone(**about) -> TunedRun:
    path = Path("nowhere")
    saved = Saved({"a.lora_A.weight": torch.zeros(1, 2)}, (LoRA(rank=1),), BASE, (), about, path)
    return TunedRun(path, path, saved, {})


def test_hub_names_data_and_its_licence_are_in_the_front_matter_and_the_text():
    card = ModelCard(model_card(_alone(task="gym/boolq", metric="ACC")))
    assert card.data.base_model == "bert-base-uncased"
    assert card.data.datasets == ["google/boolq"]
    assert card.data.metrics == ["accuracy"]
    assert "| licence | CC BY-SA 3.0 |" in card.text
    assert f"| commit | {BASE['commit']} |" in card.text


def test_what_is_not_known_is_left_out():
    text = model_card(_alone())
    assert re.findall(r"^## (.*)$", text, flags=re.M) == ["Base model", "Settings", "Citation"]
    assert "None" not in text
    assert "datasets" not in text
    local = _alone()
    local = replace(local, saved=replace(local.saved, base={**BASE, "name": "/home/alice/models/mine", "commit": None}))
    assert "base_model" not in model_card(local)
    assert "| name | mine |" in model_card(local)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/alice/run", "run"),
        ("../data", "data"),
        ("~/x/y", "y"),
        ("C:\\Users\\alice\\run", "run"),
        ("runs/first", "runs/first"),
        ("google/t5-small", "google/t5-small"),
        ("--tag", "--tag"),
        ('["a", "b"]', '["a", "b"]'),
    ],
)
def test_paths_out_of_the_working_folder_tell_their_last_part(text, told):
    assert public(text) == told


def test_licences_are_those_of_the_page_on_data():
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    told = {}
    for names, licence in re.findall(r"^\| (`[^|]*`) \| [^|]* \| [^|]* \| ((?:CC|MIT)[^|]*) \|$", page, flags=re.M):
        told |= dict.fromkeys(re.findall(r"`([^`]+)`", names), licence)
    assert len(told) == 9
    assert {name: published_source(f"gym/{name}").get("licence") for name in told} == told
    assert published_source("snli")["licence"] == "CC BY-SA 4.0"
    assert "SNLI CC BY-SA 4.0" in page
    assert published_source("glue/rte") == {"hub": "nyu-mll/glue", "config": "rte"}
    assert published_source("mine.yaml") == published_source("no-such-task") == {}
