"""Every command once, end to end, on tiny runs."""

from __future__ import annotations

import csv

import pytest
import torch

from deltatune.core import checkpoint
from deltatune.core.files import read_json, write_json
from deltatune.core.run import read_records

CPU = ("--device", "cpu")


def walked(folder):
    [found] = read_json(folder / "run.json")["paths"].values()
    return found


def scores(folder):
    return read_json(folder / "run.json")["scores"]


@pytest.mark.parametrize("kind", ["full", "adapter", "lora", "prefix"])
def test_a_walk_begins_and_ends_at_the_runs(bench, command, tmp_path, kind):
    left, right = bench / f"runs/{kind}-0", bench / f"runs/{kind}-1"
    said = command("walk", "--left", left, "--right", right, "--points", 3, "--out_dir", tmp_path / "out", "--save_best", *CPU)
    assert "connected" in said
    rows = read_records(tmp_path / "out")
    assert [(row["split"], row["x"]) for row in rows] == [(s, x) for x in (0.0, 0.5, 1.0) for s in ("dev", "test")]
    for place, run in ((0.0, left), (1.0, right)):
        for split in ("dev", "test"):
            [row] = [row for row in rows if (row["split"], row["x"]) == (split, place)]
            assert row["loss"] == pytest.approx(scores(run)[split]["loss"], rel=1e-5)
            assert row["value"] == pytest.approx(scores(run)[split]["value"])
    table = list(csv.DictReader((tmp_path / "out/result.csv").open(encoding="utf-8")))
    assert [row["prefix"] for row in table][-1] == "average"
    found = walked(tmp_path / "out")
    assert found["dev"]["loss"]["barrier"] >= 0
    assert found["dev"]["loss"]["length"] == pytest.approx(found["distance"])
    assert set(read_json(tmp_path / "out/valid_data_analysis.json")) == {"0.0", "0.5", "1.0"}
    assert (tmp_path / "out/figures/profile.png").stat().st_size > 1000
    best = checkpoint.read(tmp_path / "out/best")
    ends = [checkpoint.read(run).weights for run in (left, right)]
    x = found["best"]["x"]
    assert all(torch.allclose(best.weights[n], (1 - x) * ends[0][n] + x * ends[1][n], atol=1e-6) for n in best.weights)


def test_an_interrupted_walk_goes_on_where_it_stopped(bench, command, refused, tmp_path, monkeypatch):
    from deltatune.modeconn import sweeps

    plain, calls = sweeps.evaluate, []

    def fail(*args):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(5, "gone")
        return plain(*args)

    words = ("walk", "--left", bench / "runs/full-0", "--right", bench / "runs/full-1", "--points", 3, "--split", "dev", *CPU)
    monkeypatch.setattr(sweeps, "evaluate", fail)
    assert "gone" in refused(*words, "--out_dir", tmp_path / "cut")
    command(*words, "--out_dir", tmp_path / "cut")
    assert len(calls) == 4  # two points, the failure, and the one that was missing
    command(*words, "--out_dir", tmp_path / "whole")
    assert read_records(tmp_path / "cut") == read_records(tmp_path / "whole")
    assert not (tmp_path / "cut/state").exists()
    assert "finished already" in command(*words, "--out_dir", tmp_path / "cut")


def disguised(run, out, change):
    """A copy of a run's delta with the same function and other values."""
    saved = checkpoint.read(run)
    checkpoint.write(out, checkpoint.Saved(change(saved.weights), saved.configs, saved.base, saved.head, saved.about))
    return out


def shuffled(weights):
    order = torch.tensor([2, 0, 3, 1])
    turn = {
        "houlsby_down.weight": lambda w: w[order],
        "houlsby_down.bias": lambda w: w[order],
        "houlsby_up.weight": lambda w: w[:, order],
    }
    return {name: next((t(w) for end, t in turn.items() if name.endswith(end)), w) for name, w in weights.items()}


def turned(weights, change=((0.6, 0.8), (-0.8, 0.6))):
    change = torch.tensor(change)
    back = torch.linalg.inv(change.double()).float()
    turn = {"lora_A.weight": lambda w: change @ w, "lora_B.weight": lambda w: w @ back}
    return {name: next((t(w) for end, t in turn.items() if name.endswith(end)), w) for name, w in weights.items()}


def mapped(weights):
    return turned(weights, ((1.5, -0.5), (0.25, 0.75)))


@pytest.mark.parametrize(
    ("kind", "change", "way"),
    [
        ("adapter", shuffled, "--align"),
        ("lora", turned, "--align"),
        ("lora", mapped, "--align"),
        ("lora", turned, "--product"),
    ],
)
def test_symmetries_make_no_barrier_once_they_are_undone(bench, command, tmp_path, kind, change, way):
    run = bench / f"runs/{kind}-0"
    other = disguised(run, tmp_path / "other", change)
    words = ("walk", "--left", run, "--right", other, "--points", 3, "--split", "dev", *CPU)
    command(*words, way, "--out_dir", tmp_path / "undone")
    losses = [row["loss"] for row in read_records(tmp_path / "undone")]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
    assert walked(tmp_path / "undone")["dev"]["loss"]["barrier"] == pytest.approx(0, abs=1e-5)
    if way == "--align":
        assert walked(tmp_path / "undone")["distance"] < 1e-5
        command(*words, "--out_dir", tmp_path / "plain")
        assert walked(tmp_path / "plain")["distance"] > 0.01


def test_two_tasks_keep_the_head_of_their_own_end(bench, command, tmp_path):
    other = bench / "other.yaml"
    other.write_text((bench / "task.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    words = ("tune", "--model", bench / "model", "--task", other, "--delta", "Houlsby", "--delta.width", 4, "--train.steps", 4)
    command(*words, "--train.batch_size", 8, "--init_seed", 5, "--out_dir", tmp_path / "run", *CPU)
    left, right = bench / "runs/adapter-0", tmp_path / "run"
    command("walk", "--left", left, "--right", right, "--points", 2, "--split", "dev", "--out_dir", tmp_path / "out", *CPU)
    rows = read_records(tmp_path / "out")
    ends = {str(bench / "task.yaml"): (0.0, left), str(other): (1.0, right)}
    assert {row["task"] for row in rows} == set(ends)
    for task, (place, run) in ends.items():
        [row] = [row for row in rows if row["task"] == task and row["x"] == place]
        assert row["loss"] == pytest.approx(scores(run)["dev"]["loss"], rel=1e-5)


def test_lines_along_which_one_block_moves(bench, command, refused, tmp_path):
    words = ("walk", "--left", bench / "runs/lora-0", "--right", bench / "runs/lora-1", "--points", 2, *CPU)
    said = command(*words, "--lines", "block", "--out_dir", tmp_path / "out", "--split", "dev")
    assert "group that moves alone" in said
    groups = walked(tmp_path / "out")["groups"]
    assert len(groups) > 1
    assert {row["group"] for row in read_records(tmp_path / "out")} == {row["group"] for row in groups}
    assert "--save_best" in refused(*words, "--lines", "block", "--save_best", "--out_dir", tmp_path / "no")


def test_what_no_path_can_join_is_refused_in_one_line(bench, refused, tmp_path):
    run, out = bench / "runs/lora-0", tmp_path / "no"
    assert "hold the same weights" in refused("walk", "--left", run, "--right", run, "--out_dir", out)
    assert "other settings" in refused("walk", "--left", run, "--right", bench / "runs/full-0", "--out_dir", out)
    assert "--align" in refused(
        "walk", "--left", bench / "runs/full-0", "--right", bench / "runs/full-1", "--align", "--out_dir", out
    )
    assert "no delta here" in refused("walk", "--left", tmp_path / "nowhere", "--right", run, "--out_dir", out)
    assert not out.exists()


@pytest.mark.parametrize(("kind", "shares"), [("bezier", (0.125, 0.375, 0.375, 0.125)), ("polychain", (0.0, 0.5, 0.5, 0.0))])
def test_a_curve_keeps_its_ends_and_its_control_points(bench, command, tmp_path, kind, shares):
    left, right = bench / "runs/adapter-0", bench / "runs/adapter-1"
    words = ("curve", "--kind", kind, "--left", left, "--right", right, "--bends", 2, "--train.steps", 3, "--lr", "1e-2")
    words = (*words, "--train.eval_every", 1)
    said = command(*words, "--points", 3, "--out_dir", tmp_path / "out", *CPU)
    assert "barrier" in said
    rows = read_records(tmp_path / "out/sweep")
    for place, run in ((0.0, left), (1.0, right)):
        [row] = [row for row in rows if (row["split"], row["x"]) == ("dev", place)]
        assert row["loss"] == pytest.approx(scores(run)["dev"]["loss"], rel=1e-5)
    parts = [checkpoint.read(path).weights for path in (left, tmp_path / "out/controls/1", tmp_path / "out/controls/2", right)]
    middle = checkpoint.read(tmp_path / "out").weights
    for name, value in middle.items():
        expected = sum(c * part[name] for c, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    assert any(not torch.allclose(parts[1][n], (2 * parts[0][n] + parts[3][n]) / 3, atol=1e-5) for n in middle)
    facts = read_json(tmp_path / "out/run.json")
    assert facts["found"] == {"controls": 2, "delta_at": 0.5}
    assert [row["step"] for row in read_records(tmp_path / "out") if row["kind"] == "curve"] == [1, 2, 3]
    assert "finished already" in command(*words, "--points", 3, "--out_dir", tmp_path / "out", *CPU)


def test_mix_learns_a_share_for_each_group(bench, command, tmp_path):
    ends = bench / "runs/full-0", bench / "runs/full-1"
    words = ("mix", "--left", ends[0], "--right", ends[1], "--lrs", "[0.1, 0.05]", "--train.steps", 2, "--by", "layer")
    said = command(*words, "--begin_std", 1, "--out_dir", tmp_path / "out", *CPU)
    assert "learning rates tried: 2" in said
    facts = read_json(tmp_path / "out/run.json")
    shares = facts["share_of_left"]
    found, left, right = (checkpoint.read(path).weights for path in (tmp_path / "out", *ends))
    whole = [name for name in shares if name in found]
    assert whole
    assert len(shares) > len(whole)
    for name in whole:
        torch.testing.assert_close(
            found[name], shares[name] * left[name] + (1 - shares[name]) * right[name], atol=1e-5, rtol=1e-4
        )
    assert {record["kind"] for record in read_records(tmp_path / "out")} == {"setting", "chosen"}


def test_a_plane_through_three_runs(bench, command, tmp_path):
    step = next(step for step in (4, 8) if step != read_json(bench / "runs/lora-0/run.json")["step"])
    third = f"{bench / 'runs/lora-0'}@{step}"
    words = (
        "plane",
        "--left",
        bench / "runs/lora-0",
        "--right",
        bench / "runs/lora-1",
        "--third",
        third,
        "--points",
        2,
        "--margin",
        0,
    )
    assert "lowest" in command(*words, "--out_dir", tmp_path / "out", *CPU)
    rows = read_records(tmp_path / "out")
    assert len(rows) == 4
    [row] = [row for row in rows if row["v"] == 0 and row["u"] == min(r["u"] for r in rows)]
    if row["u"] == 0:
        assert row["loss"] == pytest.approx(scores(bench / "runs/lora-0")["dev"]["loss"], rel=1e-4)
    assert (tmp_path / "out/figures/plane.png").is_file()
    command("report", "--paths", f"[{tmp_path / 'out'}]", "--out_dir", tmp_path / "report")
    assert "plane.png" in (tmp_path / "report/report.md").read_text(encoding="utf-8")


def test_a_data_map_and_what_is_forgotten(bench, command, refused, tmp_path):
    words = ("tune", "--model", bench / "model", "--task", bench / "task.yaml", "--delta", "LoRA", "--train.epochs", 2)
    command(*words, "--train.batch_size", 16, "--cartography", "--out_dir", tmp_path / "run", *CPU)
    found = read_json(tmp_path / "run/cartography.json")
    assert list(found) == [str(i) for i in range(32)]
    assert all(len(item["acc"]) == len(item["confidence"]) == 2 for item in found.values())
    assert all(0 <= value <= 1 for item in found.values() for value in item["confidence"])
    assert all((p > 0.5) == bool(a) for item in found.values() for a, p in zip(item["acc"], item["confidence"], strict=True))
    command("report", "--paths", f"[{tmp_path / 'run'}]", "--out_dir", tmp_path / "report")
    assert "data-map.png" in (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert "recorded already" in command("cartography", "record", "--run", tmp_path / "run", *CPU)
    ends = ("--left", bench / "runs/lora-0", "--right", bench / "runs/lora-1")
    command("walk", *ends, "--split", "train", "--points", 3, "--out_dir", tmp_path / "line", *CPU)
    assert not (tmp_path / "line/result.csv").exists()
    said = command(
        "cartography", "combine", "--map", tmp_path / "run", "--path", tmp_path / "line", "--out_dir", tmp_path / "out"
    )
    assert "stays right" in said
    assert "newly forgotten examples" in (tmp_path / "out/result.txt").read_text(encoding="utf-8")
    assert "walk --split train" in refused(
        "cartography", "combine", "--map", tmp_path / "run", "--path", tmp_path / "run", "--out_dir", tmp_path / "no"
    )
    assert "no snapshots" in refused("cartography", "record", "--run", tmp_path / "line")


def test_the_report_puts_pairs_together(bench, command, tmp_path):
    pairs = [("lora-0", "lora-1"), ("adapter-0", "adapter-1")]
    for number, (left, right) in enumerate(pairs):
        ends = ("--left", bench / "runs" / left, "--right", bench / "runs" / right)
        command("walk", *ends, "--points", 2, "--split", "dev", "--out_dir", tmp_path / str(number), *CPU)
    said = command("report", "--paths", f"[{tmp_path / '0'}, {tmp_path / '1'}]", "--out_dir", tmp_path / "report")
    assert said.count(" line ") == 2
    text = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert "2 pairs" in text
    for name in [part.partition(")")[0] for part in text.split("](")[1:]]:
        assert (tmp_path / "report" / name).is_file()


def test_a_map_of_another_form_is_refused(tmp_path, refused):
    write_json(tmp_path / "map.json", {"0": 1})
    write_json(tmp_path / "path.json", {})
    words = ("--map", tmp_path / "map.json", "--path", tmp_path / "path.json", "--out_dir", tmp_path / "out")
    assert "not a data map" in refused("cartography", "combine", *words)
