"""The models that come with the package, and making them again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from deltatune.core import world, world_build, world_deltas, world_models
from deltatune.core.backbone import BackboneConfig
from deltatune.core.checkpoint import read
from deltatune.core.delta import attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.loading import load_backbone
from deltatune.core.pretraining import Sizes, build_model
from deltatune.core.weights import cosine
from deltatune.core.world_build import RECIPES, build, compared
from deltatune.core.world_deltas import APART, SOURCES, source_config

CATALOG = read_json(world_models.CATALOG)
MEGABYTE = 2**20


def _load(name, form="prompt", **options):
    return load_backbone(BackboneConfig(name, form=form, device="cpu"), **options)


def test_every_recipe_has_its_model():
    assert list(CATALOG) == list(RECIPES)
    assert set(world_models.names()) == set(RECIPES)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_model_is_the_one_that_the_catalog_describes(name):
    row = CATALOG[name]
    backbone = _load(f"world/{name}", row["form"])
    assert backbone.digest == row["digest"]
    assert row["recipe"] == world_build.plain(RECIPES[name].described())
    assert row["start"] == RECIPES[name].start
    for step in RECIPES[name].pretrain.snapshots or ():
        assert _load(f"world/{name}@{step}", row["form"]).digest != row["digest"]


def test_the_models_are_small_enough_to_come_with_the_package():
    folder = world_models.SHELF.parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20 * MEGABYTE


@pytest.mark.parametrize("form", ["prompt", "head"])
def test_step_0_is_made_from_the_seed_and_the_encoder_is_the_same_in_both_forms(form):
    recipe = RECIPES["m0"]
    fresh = build_model("prompt", recipe.sizes, world.tokenizer("head"), recipe.init_seed).model.base_model.state_dict()
    twin = _load("world/m0@0", form, num_labels=3)
    state = twin.model.base_model.state_dict()
    assert all(torch.equal(state[name], fresh[name]) for name in fresh)
    assert {name.partition(".")[0] for name in twin.fresh} == ({"classifier"} if form == "head" else set())


def test_step_0_of_the_text_to_text_model_and_of_one_that_continues_another():
    recipe = RECIPES["t5"]
    fresh = build_model("text", recipe.sizes, world.tokenizer("text"), recipe.init_seed)
    assert _load("world/t5@0", "text").digest == fresh.digest == _load("world/t5-mixture@0", "text").digest


def test_an_unknown_model_or_step_names_what_there_is():
    with pytest.raises(DeltatuneError, match="no model 'world/m9' in the world; near ones: world/m"):
        _load("world/m9")
    with pytest.raises(DeltatuneError, match=r"no ckpt_7 in .*; steps there: 400, 800, 1200"):
        _load("world/m0@7")


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch, folders):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world").mkdir()
    (tmp_path / "world/m0").symlink_to(folders["roberta-prompt"], target_is_directory=True)
    assert _load("world/m0").digest != CATALOG["m0"]["digest"]


def test_the_command_makes_the_named_models_again(command, refused, tmp_path, monkeypatch):
    made = []

    def build(name, out_dir, shelf):
        made.append((name, out_dir, shelf))
        return {"digest": name}

    monkeypatch.setattr(world_build, "build", build)
    monkeypatch.setattr(world_build, "compared", lambda name, row: f"{name}: {row['digest']} made")
    line = refused("world", "rebuild", "--only", "m0,m9", "--out_dir", tmp_path)
    assert "--only m0,m9: no model or delta m9 of the world; there are m0, " in line
    assert made == []
    assert command("world", "rebuild", "--only", "m1, m0", "--out_dir", tmp_path).split("\n")[:2] == [
        "m1: m1 made",
        "m0: m0 made",
    ]
    assert made == [(name, tmp_path, world_models.SHELF) for name in ("m1", "m0")]


def test_a_model_is_made_again_with_the_same_digest(tmp_path, monkeypatch):
    short = replace(RECIPES["m0"].pretrain, steps=4, snapshots=(2,), batch_tokens=128, optimizer=None)
    first = replace(RECIPES["m0"], pretrain=short, sizes=Sizes(1, 8, 2, 8, 160))
    monkeypatch.setattr(world_build, "RECIPES", {"m0": first, "m1": replace(first, start="m0")})
    monkeypatch.setattr(world, "TASKS", ("sentiment-0",))
    here, there = tmp_path / "here", tmp_path / "there"
    rows = [build("m0", here), build("m1", here)]
    again = [build("m0", there), build("m1", there / "alone", here)]
    assert [row["digest"] for row in rows] == [row["digest"] for row in again]
    assert rows[0]["digest"] != rows[1]["digest"]
    assert (here / "m0/ckpt_2/model.safetensors").is_file()
    assert build("m0", here) == rows[0]  # not made twice
    monkeypatch.setattr(world_models, "CATALOG", here / "catalog.json")
    assert compared("m1", rows[1]).startswith("m1: equal to the package's")
    other = {**rows[1], "digest": "0" * 64, "zero_shot": {"sentiment-0": 0.0}}
    assert "other digest; zero-shot scores differ by" in compared("m1", other)
    with pytest.raises(DeltatuneError, match="m0 is not there to be continued"):
        build("m1", tmp_path / "empty")


def test_the_mixture_holds_training_examples_of_the_stated_kinds_only():
    recipe = RECIPES["t5-mixture"]
    assert {name.rpartition("-")[0] for name in recipe.supervised}.isdisjoint(world.UNSTATED)
    draw = world_build.examples_of(replace(recipe, supervised=("relation-1",)))
    assert draw is not None
    stream = draw(3)
    pairs = [next(stream) for _ in range(5)]
    train = {example.texts[0] for example in world.task("relation-1").train}
    for source, answer in pairs:
        assert any(source.startswith(text) for text in train)
        assert answer.startswith("<extra_id_0>")
    again = draw(3)
    assert [next(again) for _ in range(5)] == pairs


def test_the_models_are_listed(command):
    out = command("world", "models")
    assert "world/m0" in out
    assert "400 800 1200" in out


@pytest.mark.parametrize("task", world.TASKS)
def test_each_task_has_its_deltas_of_one_size_from_one_start(task):
    saved = [read(Path(f"world/deltas/{task}/{kind}")) for kind in SOURCES]
    assert {sum(tensor.numel() for tensor in found.weights.values()) for found in saved} == {11_520}
    for found, (config, _) in zip(saved, SOURCES.values(), strict=True):
        assert found.configs == (config,)
        assert found.base["digest"] == CATALOG["t5"]["digest"]
        assert found.about["task"] == f"world/{task}"


@pytest.mark.parametrize("task", APART)
def test_a_delta_apart_has_a_start_of_its_own_and_is_as_good(task):
    one, other = (read(Path(f"world/deltas/{task}/{kind}")) for kind in ("Houlsby", "Houlsby-apart"))
    assert one.configs == other.configs
    assert one.base["digest"] == other.base["digest"]
    base = load_backbone(BackboneConfig("world/t5", form="text", device="cpu"))
    for found, own, foreign in ((one, 0, APART[task]), (other, APART[task], 0)):
        starts = []
        for seed in (own, foreign):
            tuned = attach(base, *found.configs, generator=torch.Generator().manual_seed(seed))
            starts.append(cosine(found.weights, tuned.weights()))
            tuned.detach()
        assert starts[0] > 0.05 > abs(starts[1])  # what training left of the start, and of one that it did not have
    assert abs(one.about["scores"]["test"]["value"] - other.about["scores"]["test"]["value"]) <= 0.015


def test_deltas_are_made_again_and_compared(command, refused, monkeypatch, tmp_path):
    few = source_config("topic-0", "Houlsby-apart")
    assert few.init_seed == APART["topic-0"] != source_config("topic-0", "Houlsby").init_seed
    short = replace(few, train=replace(few.train, steps=1), task=replace(few.task, max_test=4))
    monkeypatch.setattr(world_deltas, "source_config", lambda task, kind: short)
    line = command("world", "rebuild", "--only", "deltas/topic-0/Houlsby-apart", "--out_dir", tmp_path)
    assert line.startswith("deltas/topic-0/Houlsby-apart: values differ by ")
    shutil.copytree(world_models.DELTAS / "topic-1" / "LoRA", tmp_path / "deltas/topic-1/LoRA")
    line = command("world", "rebuild", "--only", "deltas/topic-1/LoRA", "--out_dir", tmp_path)
    assert line.strip() == "deltas/topic-1/LoRA: equal to the package's"
    assert "no model or delta deltas/topic-1/Full of the world" in refused("world", "rebuild", "--only", "deltas/topic-1/Full")


def test_a_delta_of_the_world_scores_what_it_says(command):
    wanted = read(Path("world/deltas/relation-1/Prefix")).about["scores"]["test"]["value"]
    assert f"{wanted:.4f}" in command("evaluate", "--run", "world/deltas/relation-1/Prefix", "--split", "test", "--whole")


def test_deltas_of_one_kind_and_start_are_nearer_than_their_lengths():
    one, two = (read(Path(f"world/deltas/{task}/LoRA")).weights for task in ("relation-1", "relation-2"))
    assert cosine(one, two) > 0.2


def test_the_page_shows_the_scores_of_the_catalog_and_the_deltas():
    page = (Path(__file__).parents[2] / "docs/world.md").read_text(encoding="utf-8")
    for name, row in CATALOG.items():
        means = [fmean(row["zero_shot"][f"{kind}-{number}"] or 0 for number in range(4)) for kind in world.KINDS]
        assert f"{row['parameters']:,} | {' | '.join(f'{value:.2f}' for value in means)} |" in page, name
    for name in ("m0", "m1", "m2", "m3", "other-m0", "other-m1", "other-m2", "other-m3"):
        shown = [CATALOG[name]["zero_shot"][f"{kind}-{d}"] for kind in ("sentiment", "topic", "relation") for d in range(4)]
        assert f"| {name} | {' | '.join(f'{value:.2f}' for value in shown)} |" in page
    for kind in world.KINDS:
        folders = [[world_models.DELTAS / f"{kind}-{number}" / delta for number in range(4)] for delta in SOURCES]
        scores = [[read(folder).about["scores"]["test"]["value"] for folder in row] for row in folders]
        cells = [" ".join(f"{score:.2f}" for score in row) for row in scores]
        assert f"| {kind} | {' | '.join(cells)} |" in page
    apart = {task: read(world_models.DELTAS / task / "Houlsby-apart").about["scores"]["test"]["value"] for task in APART}
    assert ", ".join(f"{task.partition('-')[0]} {score:.2f}" for task, score in apart.items()) in page


def test_a_shipped_delta_is_scored_and_stays_as_it_was(command):
    folder = world_models.DELTAS / "sentiment-1" / "LoRA"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "records.jsonl" not in before
    command("evaluate", "--run", "world/deltas/sentiment-1/LoRA", "--split", "test", "--whole", "--max_examples", 4)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
