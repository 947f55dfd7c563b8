"""Runs on disk: the same command goes on or does nothing, interrupted or not, with the same result to the last bit."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import torch

from deltatune.core import checkpoint, cli, train
from deltatune.core.files import read_json
from deltatune.core.reuse import open_run
from deltatune.core.run import read_records

TIMES = ("seconds", "train_seconds")


def content(folder):
    """Every file below `folder` with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def outcome(run):
    """Everything that a run says, without the times it took; the tensors' digests are in `deltatune.json`."""
    records = [{key: value for key, value in record.items() if key not in TIMES} for record in read_records(run)]
    about = {key: value for key, value in read_json(run / "run.json").items() if key not in TIMES}
    files = {name: data for name, data in content(run).items() if name.startswith(("delta/", "snapshots/"))}
    return records, about, files


def weights_equal(left, right):
    one, other = (checkpoint.read(Path(path)).weights for path in (left, right))
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def interrupted(monkeypatch, capsys):
    """`interrupted(words, step)`: run `deltatune` and press Ctrl-C before update `step` (from 0)."""

    def run(words, step):
        def schedule(config, now, total):
            if now == step:
                raise KeyboardInterrupt
            return original(config, now, total)

        original = train.schedule
        with monkeypatch.context() as patch:
            patch.setattr(train, "schedule", schedule)
            assert cli.main(list(map(str, words))) == 130
        error = capsys.readouterr().err
        assert error.endswith("deltatune tune: error: interrupted; run the same command again to go on\n")
        assert "Traceback" not in error

    return run


@pytest.fixture
def gym(tmp_path):
    """A text-to-text task whose questions have several answers."""
    lines = ["this movie was great\tgood\tgreat\tvery good", "the film is bad\tbad\tterrible", "a plain film\tplain\tnot good"]
    for split in ("train", "dev", "test"):
        (tmp_path / f"talk_{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "talk.yaml").write_text("reader: gym\nmetric: EM\n", encoding="utf-8")
    return tmp_path / "talk.yaml"


PLANS = {
    "lora": ("--delta", "LoRA", "--delta.dropout", "0.3"),
    "full-prompt": ("--delta", "Full", "--form", "prompt", "--train.accumulation", 2, "--train.optimizer.name", "adafactor"),
    "prefix": ("--delta", "Prefix", "--delta.length", 3, "--train.early_stopping", 3, "--train.token_budget", 40),
    "text": ("--delta", "Houlsby", "--delta.width", 3, "--train.group_by_length"),
}


@pytest.mark.parametrize("plan", PLANS)
def test_an_interrupted_run_ends_like_one_never_interrupted(tune_reviews, folders, gym, command, interrupted, tmp_path, plan):
    words = [*tune_reviews, *PLANS[plan], "--train.steps", 9, "--train.save_every", 3, "--train.eval_every", 2]
    words += ["--train.snapshots", 4, "--lr", "0.01", "--train.select", "last" if plan == "text" else "best"]
    if plan == "text":
        words += ["--model", folders["t5-text"], "--task", gym, "--train.batch_size", 2]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command(*words, "--out_dir", whole)
    for step in (1, 5, 6):  # before the first saved state, after one, and right at one
        interrupted([*words, "--out_dir", parts], step)
        assert read_json(parts / "run.json")["status"] == "running"
        assert not (parts / "delta").exists()
        assert (parts / "state/state.pt").exists() == (step > 3)
    command(*words, "--out_dir", parts)
    assert outcome(parts) == outcome(whole)
    assert content(parts).keys() == content(whole).keys()
    assert not (parts / "state").exists()
    assert len(outcome(whole)[2]) == 9  # the delta and two snapshots, three files each


def test_dropout_acts_in_these_runs(tune_reviews, command, tmp_path):
    """Else the test above would not see a generator that starts anew."""
    for name, dropout in (("with", "0.3"), ("without", "0.0")):
        command(*tune_reviews, "--delta", "LoRA", "--delta.dropout", dropout, "--out_dir", tmp_path / name)
    assert not weights_equal(tmp_path / "with", tmp_path / "without")


def test_what_changes_no_weight_may_change_on_going_on(tune_reviews, command, interrupted, refused, tmp_path):
    words = [*tune_reviews, "--delta", "BitFit", "--out_dir", tmp_path / "run", "--train.steps", 6]
    interrupted([*words, "--train.save_every", 2], 3)
    assert "holds another run" in refused(*words, "--train.steps", 7)
    command(*words, "--train.save_every", 1, "--train.log_every", 1)
    command(*words[:-4], "--out_dir", tmp_path / "other", *words[-2:])
    assert weights_equal(tmp_path / "run", tmp_path / "other")


@pytest.fixture(scope="module")
def finished(tune_reviews, tmp_path_factory):
    """(the words that made a run, the run)"""
    run = tmp_path_factory.mktemp("finished") / "run"
    words = [*tune_reviews, "--delta", "LoRA", "--delta.rank", "2", "--train.snapshots", "[1,3]", "--train.select", "last"]
    assert cli.main([*words, "--out_dir", str(run)]) == 0
    return words, run


def test_a_finished_run_is_not_done_again(finished, command, refused):
    words, run = finished
    before = content(run)
    printed = command(*words, "--out_dir", run)
    assert f"{run} is finished already; --overwrite does it again" in printed
    assert "│ test " in printed
    assert content(run) == before
    assert refused(*words, "--init_seed", 3, "--out_dir", run) == (
        f"deltatune tune: error: --out_dir {run} holds another run; choose another folder, or --overwrite it\n"
    )
    assert content(run) == before


def test_overwrite_does_a_run_anew(finished, tune_reviews, command, tmp_path):
    words, run = finished
    out = tmp_path / "run"
    command(*tune_reviews, "--delta", "BitFit", "--out_dir", out)
    command(*words, "--out_dir", out, "--overwrite")
    assert outcome(out) == outcome(run)
    # The options that made it do not throw it away when they are given again.
    before = content(out)
    assert "is finished already" in command("tune", "--config", out / "config.yaml")
    assert content(out) == before


def test_a_folder_that_holds_something_else_is_left_alone(finished, refused, tmp_path):
    words, _ = finished
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for extra in ([], ["--overwrite"]):
        line = refused(*words, "--out_dir", tmp_path, *extra)
        assert line.endswith(f"--out_dir {tmp_path} is not an empty folder and holds no run; choose another folder\n")
        assert content(tmp_path) == {"notes.txt": b"mine"}


def test_the_saved_configuration_repeats_the_run(finished, command, tmp_path):
    _, run = finished
    command("tune", "--config", run / "config.yaml", "--out_dir", tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(run)


@pytest.mark.parametrize("seed", ["init_seed", "data_seed"])
def test_seeds_repeat_and_differ(finished, command, tmp_path, seed):
    words, run = finished
    for name, value in (("zero", 0), ("one", 1), ("one-again", 1)):
        command(*words, f"--{seed}", value, "--out_dir", tmp_path / name)
    assert weights_equal(tmp_path / "zero", run)
    assert weights_equal(tmp_path / "one", tmp_path / "one-again")
    assert not weights_equal(tmp_path / "one", run)
    assert {record[seed] for record in read_records(tmp_path / "one")} == {1}


def test_a_snapshot_is_what_a_run_of_so_many_updates_ends_with(finished, command, tmp_path):
    words, run = finished
    assert sorted(path.name for path in (run / "snapshots").iterdir()) == ["1", "3"]
    # A constant rate, so that a shorter run takes the same steps.
    steady = [*words, "--train.optimizer.schedule", "constant"]
    command(*steady, "--out_dir", tmp_path / "four")
    command(*steady, "--train.steps", 3, "--out_dir", tmp_path / "three")
    assert weights_equal(tmp_path / "four@3", tmp_path / "three")
    assert not weights_equal(tmp_path / "four@3", tmp_path / "four@1")


def test_snapshots_are_addressed_by_their_step(finished, command, refused, tmp_path):
    words, run = finished
    command("evaluate", "--run", f"{run}@3", "--split", "dev", "--device", "cpu")
    record = read_records(run)[-1]
    curve = {r["step"]: r["value"] for r in read_records(run) if r["kind"] == "curve"}
    assert (record["delta"], record["value"]) == (f"{run}@3", curve[3])
    assert "│ all" in command("distance", "--left", f"{run}@1", "--right", run)
    line = refused("evaluate", "--run", f"{run}@2")
    assert line.endswith(f"{run}@2: no snapshot of step 2; steps there: 1, 3\n")
    # A run that starts there and stands still ends there.
    still = [*words, "--start", f"{run}@3", "--lr", "0", "--out_dir", tmp_path / "still"]
    command(*still)
    assert weights_equal(tmp_path / "still", f"{run}@3")
    assert read_json(tmp_path / "still/run.json")["config"]["start"] == f"{run}@3"


def test_a_start_must_fit_the_deltas_and_the_base(finished, tune_reviews, reviews, command, refused, tmp_path):
    _, run = finished
    line = refused(*tune_reviews, "--delta", "LoRA", "--start", run, "--out_dir", tmp_path / "a")
    assert "have other settings (LoRA.rank 2 and 8)" in line
    assert not list(tmp_path.iterdir())
    command("merge", "--run", run, "--out_dir", tmp_path / "base2")
    words = [*tune_reviews, "--model", tmp_path / "base2", "--delta", "LoRA", "--delta.rank", 2, "--start", run]
    assert "--other_base" in refused(*words, "--out_dir", tmp_path / "b")
    command(*words, "--other_base", "--out_dir", tmp_path / "b")
    assert read_json(tmp_path / "b/run.json")["config"]["other_base"] is True
    # A head of another width keeps its fresh values.
    three = reviews.with_name("three.yaml")
    three.write_text(
        reviews.read_text(encoding="utf-8").replace("[negative, positive]", "[negative, positive, mixed]"), encoding="utf-8"
    )
    command(*tune_reviews, "--task", three, "--delta", "LoRA", "--delta.rank", 2, "--start", run, "--out_dir", tmp_path / "c")
    assert open_run(tmp_path / "c").num_labels == 3


def test_files_of_a_run_name_no_user_and_no_machine(tune_reviews, command, tmp_path, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "zaphod")
    command(*tune_reviews, "--delta", "LoRA", "--train.snapshots", 2, "--out_dir", tmp_path / "run")
    command("evaluate", "--run", tmp_path / "run", "--device", "cpu")
    for name, data in content(tmp_path / "run").items():
        if not name.endswith(".safetensors"):
            text = data.decode("utf-8")
            assert "zaphod" not in text
            assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
