"""A run taken up again: the same sample, the same settings, also from a copy of its delta folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from deltatune.core import checkpoint, cli
from deltatune.core.files import read_json
from deltatune.core.reuse import open_run
from deltatune.core.run import read_records
from deltatune.core.tune_config import TaskChoice

CPU = ("--device", "cpu")
SCORES = ("value", "metric", "loss", "stderr", "n")


def scores(record):
    return {key: record[key] for key in SCORES}


@pytest.fixture(scope="module")
def few(tune_reviews, tmp_path_factory):
    """A run on two examples a class and five of the test examples."""
    run = tmp_path_factory.mktemp("few") / "run"
    words = [*tune_reviews, "--delta", "LoRA", "--shots", "3", "--sample_seed", "7", "--max_test", "5", "--max_length", "9"]
    assert cli.main([*words, "--out_dir", str(run)]) == 0
    return run


def test_the_choice_of_examples_is_the_run_s_own(few, reviews):
    opened = open_run(few)
    choice = TaskChoice(reviews.as_posix(), None, max_length=9, max_test=5, shots=3, sample_seed=7)
    assert opened.task_choice() == choice
    assert opened.task_choice(data_dir=Path("elsewhere")).data_dir == Path("elsewhere")
    assert opened.task_choice("other.yaml").shots == 3
    assert opened.task_choice(whole=True) == TaskChoice(reviews.as_posix(), None, max_length=9)


@pytest.mark.parametrize(("split", "count"), [("dev", 6), ("test", 5), ("train", 6)])
def test_a_few_shot_run_is_scored_on_the_examples_that_it_was_selected_on(few, command, split, count):
    printed = command("evaluate", "--run", few, "--split", split, *CPU)
    record, about = read_records(few)[-1], read_json(few / "run.json")
    assert (record["n"], record["shots"], record["sample_seed"]) == (count, 3, 7)
    assert record["data_digest"] == about["data"]["digest"]
    assert "note" not in printed
    if split != "train":
        assert scores(record) == about["scores"][split]


def test_the_whole_split_on_request(few, command):
    for split, count in (("dev", 12), ("test", 13)):
        assert "note" not in command("evaluate", "--run", few, "--split", split, "--whole", *CPU)
        record = read_records(few)[-1]
        assert (record["n"], record["shots"]) == (count, None)
        assert record["data_digest"] != read_json(few / "run.json")["data"]["digest"]


def test_data_that_changed_since_the_run_are_noted(few, reviews, command, tmp_path):
    folder = shutil.copytree(reviews.parent, tmp_path / "reviews")
    words = ("evaluate", "--run", few, "--data_dir", folder, *CPU)
    assert "note" not in command(*words)  # the same files elsewhere
    file = folder / "train.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("soup", "boat"), encoding="utf-8")
    assert f"note: other examples of reviews than {few} was tuned with" in command(*words)


@pytest.fixture
def llama(folders, reviews, llama_sites, command, tmp_path):
    """A run whose settings all differ from the defaults; the record of its architecture is gone afterwards."""
    sites = shutil.copy(llama_sites, tmp_path / "sites.yaml")
    words = ("tune", "--model", folders["llama-head"], "--task", reviews, *CPU, "--sites", sites, "--train.steps", 3)
    settings = ("--max_length", 5, "--precision", "bf16", "--max_test", 6, "--train.snapshots", 2)
    command(*words, *settings, "--delta", "LoRA", "--lr", "0.1", "--train.batch_size", 4, "--out_dir", tmp_path / "run")
    Path(sites).unlink()
    return tmp_path / "run"


def test_a_copy_of_the_delta_folder_alone_does_the_same(llama, reviews, llama_sites, command, tmp_path):
    about, copied = read_json(llama / "run.json"), tmp_path / "copied"
    shutil.copytree(llama / "delta", copied)
    command("evaluate", "--run", llama, *CPU)
    assert scores(read_records(llama)[-1]) == about["scores"]["test"]
    command("evaluate", "--run", f"{llama}@2", *CPU)
    file = reviews.with_name("test.jsonl")
    expected = command("predict", "--run", llama, "--input", file, *CPU)
    shutil.rmtree(llama)
    command("evaluate", "--run", copied, *CPU)
    assert scores(read_records(copied)[-1]) == about["scores"]["test"]
    assert command("predict", "--run", copied, "--input", file, *CPU) == expected
    command("evaluate", "--run", copied, "--sites", llama_sites, *CPU)
    assert scores(read_records(copied)[-1]) == about["scores"]["test"]


def test_a_copy_of_an_imported_delta_folder_does_the_same(folders, reviews, llama_sites, command, tmp_path):
    words = ("--model", folders["llama-head"], "--task", reviews, "--sites", llama_sites)
    command("tune", *words, *CPU, "--delta", "LoRA", "--train.steps", 2, "--train.batch_size", 4, "--out_dir", tmp_path / "run")
    command("export", "--run", tmp_path / "run", "--out_dir", tmp_path / "adapter")
    command("import", *words, "--adapter", tmp_path / "adapter", "--out_dir", tmp_path / "back")
    shutil.copytree(tmp_path / "back/delta", tmp_path / "copied")
    command("evaluate", "--run", tmp_path / "copied", *CPU)
    assert scores(read_records(tmp_path / "copied")[-1]) == read_json(tmp_path / "run/run.json")["scores"]["test"]


def test_a_saved_state_is_left_out_on_request(tune_reviews, command, monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr("deltatune.core.train.save_state", lambda folder, state: saved.append(state))
    for name, value in (("null", "null"), ("two", 2)):
        saved.clear()
        command(*tune_reviews, "--delta", "BitFit", "--train.save_every", value, "--out_dir", tmp_path / name)
        assert len(saved) == {"null": 0, "two": 2}[name]
    assert "save_every: 100\n" in command(*tune_reviews, "--delta", "BitFit", "--out_dir", "x", "--print_config")


@pytest.fixture(scope="module")
def pair(tune_reviews, reviews, tmp_path_factory):
    """(a LoRA run, the same on an upgraded base, that base)"""
    folder = tmp_path_factory.mktemp("pair")
    base = shutil.copytree(reviews.with_name("model"), folder / "upgraded")
    tensors = {name: tensor + 0.01 for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    words = [*tune_reviews, "--delta", "LoRA", "--delta.rank", "2", "--train.snapshots", "2"]
    assert cli.main([*words, "--out_dir", str(folder / "a")]) == 0
    assert cli.main([*words, "--model", str(base), "--out_dir", str(folder / "b")]) == 0
    return folder / "a", folder / "b", base


def test_both_bases_are_recorded_wherever_another_one_is_allowed(pair, reviews, command, tune_reviews, tmp_path):
    run, other, base = pair
    digests = [read_json(path / "run.json")["base"]["digest"] for path in (run, other)]
    command("predict", "--run", run, "--input", reviews.with_name("test.jsonl"), "--model", base, "--other_base", *CPU)
    record = read_records(run)[-1]
    assert (record["kind"], record["n"], record["output"]) == ("prediction", 13, None)
    assert [record[key]["digest"] for key in ("tuned_on", "base")] == digests
    assert record["delta_digest"] == checkpoint.read(run).digest
    command("merge", "--run", run, "--model", base, "--other_base", "--out_dir", tmp_path / "merged")
    about = read_json(tmp_path / "merged/merge.json")
    assert [about[key]["digest"] for key in ("tuned_on", "base")] == digests
    words = ["--delta", "LoRA", "--delta.rank", 2, "--start", run, "--model", base, "--other_base"]
    command(*tune_reviews, *words, "--out_dir", tmp_path / "run")
    about = read_json(tmp_path / "run/run.json")
    assert [about["start"]["tuned_on"]["digest"], about["base"]["digest"]] == digests


def test_distance_only_between_deltas_of_one_space(pair, tune_reviews, command, refused, tmp_path):
    run, other, base = pair
    line = refused("distance", "--left", run, "--right", other)
    assert "were tuned on different bases" in line
    assert "give --other_base" in line
    printed = command("distance", "--left", f"{run}@2", "--right", other, "--other_base")
    digests = [read_json(path / "run.json")["base"]["digest"][:12] for path in (run, other)]
    assert all(f"(digest {digest})" in printed for digest in digests)
    assert "note" not in command("distance", "--left", f"{run}@2", "--right", run)
    command(*tune_reviews, "--delta", "LoRA", "--delta.rank", 2, "--delta.alpha", 32, "--out_dir", tmp_path / "wide")
    line = refused("distance", "--left", run, "--right", tmp_path / "wide", "--other_base")
    assert "have other settings (LoRA.alpha 16 and 32)" in line
    assert f"{base} is a model and {run} is not" in refused("distance", "--left", run, "--right", base)
    assert "│ attention " in command("distance", "--left", run, "--right", run, "--by", "part")


def test_distance_of_the_steps_of_a_series(pair, reviews, command, refused, tmp_path):
    for step, folder in ((100, reviews.with_name("model")), (200, pair[2])):
        shutil.copytree(folder, tmp_path / f"series/ckpt_{step}")
    printed = command("distance", "--left", tmp_path / "series@100", "--right", tmp_path / "series@200")
    row = next(line for line in printed.splitlines() if line.startswith("│ all ")).strip("│").split("│")
    gaps = [float(row[i].replace(",", "")) for i in (2, 3)]
    assert gaps[1] == pytest.approx(0.01 * gaps[0] ** 0.5, rel=1e-3)  # the base is stored in half precision
    assert "steps there: 100, 200" in refused("distance", "--left", tmp_path / "series@7", "--right", pair[2])
    assert "is a series; choose a step" in refused("distance", "--left", tmp_path / "series", "--right", pair[2])


def test_a_model_of_unknown_architecture_is_measured_by_its_record(folders, llama_sites, command, refused):
    words = ("distance", "--left", folders["llama-head"], "--right", folders["llama-head"])
    assert "--sites" in refused(*words)
    assert "│ 0 " in command(*words, "--sites", llama_sites)


def test_what_a_delta_folder_says_is_plain(few):
    about = json.loads((few / "delta/deltatune.json").read_text(encoding="utf-8"))["about"]
    assert about["settings"]["task"]["max_length"] == 9
    assert about["settings"]["backbone"]["precision"] == "fp32"
