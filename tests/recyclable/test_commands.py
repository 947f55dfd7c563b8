"""Every command once, end to end, on a tiny base and its upgrade."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch

from deltatune.core import checkpoint
from deltatune.core.files import read_json
from deltatune.core.run import read_records

FEW = ["--device", "cpu", "--train.steps", "3", "--train.batch_size", "8"]


def scores(folder):
    return read_json(folder / "run.json")["scores"]


@pytest.mark.parametrize("kind", ["full", "adapter", "lora"])
def test_a_delta_applied_to_its_own_base_scores_as_it_did(bench, command, tmp_path, kind):
    run = bench / "runs" / kind
    command("apply", "--run", run, "--model", bench / "old", "--out_dir", tmp_path / "out", "--device", "cpu")
    for split, numbers in scores(run).items():
        assert scores(tmp_path / "out")[split]["value"] == numbers["value"]
        assert scores(tmp_path / "out")[split]["loss"] == pytest.approx(numbers["loss"], rel=1e-5)


def test_apply_separates_what_delta_and_head_carry(bench, command, tmp_path):
    run, found = bench / "runs/full", {}
    for name, words in {"both": (), "head": ("--scale", "0"), "delta": ("--head_init", "fresh")}.items():
        command("apply", "--run", run, "--model", bench / "new", "--out_dir", tmp_path / name, "--device", "cpu", *words)
        found[name] = checkpoint.read(tmp_path / name).weights
    old = checkpoint.read(run)
    head = set(old.head)
    assert all(torch.equal(found["both"][n], w) for n, w in old.weights.items() if n in head)
    assert all(not found["head"][n].any() for n in old.weights if n not in head)
    assert all(torch.allclose(found["delta"][n], w, atol=1e-6) for n, w in old.weights.items() if n not in head)
    assert not any(torch.equal(found["delta"][n], old.weights[n]) for n in head if n.endswith("weight"))
    [record] = [r for r in read_records(tmp_path / "both") if r["split"] == "test"]
    assert (record["kind"], record["scale"], record["n"]) == ("applied", 1.0, 25)
    said = command("apply", "--run", run, "--model", bench / "new", "--out_dir", tmp_path / "both", "--device", "cpu")
    assert "finished already" in said


def test_init_starts_at_the_applied_delta_and_reports_its_score(bench, command, tmp_path):
    run = bench / "runs/adapter"
    command("apply", "--run", run, "--model", bench / "new", "--out_dir", tmp_path / "applied", "--device", "cpu")
    said = command("init", "--run", run, "--model", bench / "new", "--out_dir", tmp_path / "init", *FEW, "--train.eval_every", 1)
    assert "dev before" in said
    facts = read_json(tmp_path / "init/run.json")
    assert facts["before"] == scores(tmp_path / "applied")
    assert facts["command"] == "deltatune-recyclable init"
    records = read_records(tmp_path / "init")
    assert [r["step"] for r in records if r["kind"] == "curve"] == [1, 2, 3]
    assert {r["split"]: r["step"] for r in records if r["kind"] == "before"} == {"dev": 0, "test": 0}
    assert facts["config"]["method"]["start"]["path"] == run.as_posix()


def test_a_frozen_head_keeps_the_values_of_the_start(bench, command, tmp_path):
    run = bench / "runs/adapter"
    words = ("--train.select", "last", "--train_head", "false", *FEW)
    command("init", "--run", run, "--model", bench / "new", "--out_dir", tmp_path / "init", *words)
    old, new = checkpoint.read(run), checkpoint.read(tmp_path / "init")
    for name in old.weights:
        assert torch.equal(old.weights[name], new.weights[name]) == (name in old.head)
    assert read_json(tmp_path / "init/run.json")["trainable"]["Head"] == 0


def test_distill_and_combine_from_a_snapshot(bench, command, tmp_path):
    teacher = f"{bench / 'runs/full'}@12"
    words = ("--model", bench / "new", "--task", bench / "task.yaml", "--delta", "Full", "--beta", "10", *FEW)
    command("distill", "--teacher", teacher, "--out_dir", tmp_path / "distill", *words)
    method = read_json(tmp_path / "distill/run.json")["config"]["method"]
    assert method["distillation"] == {"alpha": 0.9, "beta": 10.0, "temperature": 5.0, "reduction": "element_mean"}
    assert method["teacher"]["path"].endswith("@12")
    command("combine", "--run", bench / "runs/full", "--model", bench / "new", "--out_dir", tmp_path / "both", *FEW)
    method = read_json(tmp_path / "both/run.json")["config"]["method"]
    assert method["start"] == method["teacher"]
    assert len(read_json(tmp_path / "both/run.json")["before"]) == 2


def test_an_interrupted_distillation_ends_as_one_never_interrupted(bench, command, refused, tmp_path, monkeypatch):
    words = ["distill", "--teacher", bench / "runs/full", "--model", bench / "new", "--task", bench / "task.yaml"]
    words += ["--delta", "LoRA", "--train.save_every", 1, *FEW]
    command(*words, "--out_dir", tmp_path / "whole")
    from deltatune.recyclable.methods import Recycle

    plain, calls = Recycle.loss, []

    def fail(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(5, "gone")
        return plain(self, *args)

    monkeypatch.setattr(Recycle, "loss", fail)
    assert "gone" in refused(*words, "--out_dir", tmp_path / "cut")
    monkeypatch.setattr(Recycle, "loss", plain)
    command(*words, "--out_dir", tmp_path / "cut")
    ends = [checkpoint.read(tmp_path / name).weights for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_interpolate_between_a_delta_and_its_upgrade(bench, command, refused, tmp_path):
    run = bench / "runs/full"
    command("init", "--run", run, "--model", bench / "new", "--out_dir", tmp_path / "new", *FEW)
    said = command("interpolate", "--left", run, "--right", tmp_path / "new", "--points", 5, "--out_dir", tmp_path / "path")
    assert "dev loss barrier" in said
    rows = list(csv.DictReader((tmp_path / "path/result.csv").open(encoding="utf-8")))
    assert [row["x"] for row in rows] == ["0.0000", "0.2500", "0.5000", "0.7500", "1.0000"]
    for row, end in ((rows[0], run), (rows[-1], tmp_path / "new")):
        for split in ("dev", "test"):
            assert float(row[f"{split}_loss"]) == pytest.approx(scores(end)[split]["loss"], abs=2e-4)
    assert {record["along"] for record in read_records(tmp_path / "path")} == {"whole"}
    words = ("--left", run, "--right", f"{run}@12", "--points", 3, "--out_dir", tmp_path / "delta", "--max_test", 0)
    command("interpolate", *words)
    assert read_records(tmp_path / "delta")[0]["along"] == "delta"
    assert "hold the same delta" in refused("interpolate", "--left", run, "--right", run, "--out_dir", tmp_path / "same")


def test_distance_of_runs_and_models(bench, command, refused):
    run = bench / "runs/full"
    assert " 0 " in command("distance", "--left", run, "--right", run).replace("|", " ")
    said = command("distance", "--left", bench / "old", "--right", bench / "new", "--by", "part")
    assert all(word in said for word in ("embeddings", "attention", "feed-forward", "norms"))
    assert "embeddings" in command("distance", "--left", run, "--right", f"{run}@12", "--scope", "model", "--by", "part")
    assert "no scope 'head'" in refused("distance", "--left", bench / "old", "--right", bench / "new", "--scope", "head")


def test_similarity_of_a_model_with_itself_is_one(bench, command, tmp_path):
    run = bench / "runs/full"
    command("similarity", "--left", run, "--right", run, "--out_dir", tmp_path / "same", "--max_examples", 8)
    assert all(record["correlation"] == pytest.approx(1) for record in read_records(tmp_path / "same"))
    command("similarity", "--left", run, "--right", bench / "new", "--out_dir", tmp_path / "new", "--max_examples", 8)
    found = [record["correlation"] for record in read_records(tmp_path / "new")]
    assert len(found) == 4
    assert all(-1 < value < 1 for value in found)


def test_project_maps_the_tasks_it_learnt_from_onto_their_new_weights(bench, command, tmp_path):
    olds = [f"{bench / 'runs/adapter'}@12", bench / "runs/adapter"]
    news = []
    for number, old in enumerate(olds):
        news.append(tmp_path / f"new{number}")
        command("init", "--run", old, "--model", bench / "new", "--out_dir", news[-1], "--init_seed", number, *FEW)
    words = ("--old", json.dumps(list(map(str, olds))), "--new", json.dumps(list(map(str, news))), "--ridge", "1e-9")
    command("project", "--run", olds[1], "--model", bench / "new", "--out_dir", tmp_path / "out", *words)
    found, wanted = checkpoint.read(tmp_path / "out").weights, checkpoint.read(news[1]).weights
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)
    assert {record["kind"] for record in read_records(tmp_path / "out")} == {"untouched", "projected"}


def test_sweep_chooses_on_dev_and_reports_how_many_settings_it_tried(bench, command, tmp_path):
    grid = ("--alphas", "[0.9, 0.5]", "--betas", "[0, 1]", "--temperatures", "[5]", "--seeds", "[20, 30]")
    words = ("--teacher", bench / "runs/adapter", "--model", bench / "new", "--out_dir", tmp_path / "sweep", *FEW)
    assert "4 settings tried with seeds 20, 30" in command("sweep", *words, *grid)
    facts = read_json(tmp_path / "sweep/run.json")
    means = [math.fsum(setting["dev"]) for setting in facts["settings"]]
    best = facts["settings"][means.index(max(means))]
    assert {name: best[name] for name in facts["chosen"]} == facts["chosen"]
    assert len(list((tmp_path / "sweep/runs").glob("*/run.json"))) == 8
    records = read_records(tmp_path / "sweep")
    assert sum(record["kind"] == "setting" for record in records) == 8
    assert {record["split"] for record in records if record["kind"] == "chosen"} == {"test"}
