"""The claims are declared as the specification has them, measure what they declare, and reach a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deltatune.core import world_models
from deltatune.core.claims import Context, SharedRun, Store
from deltatune.core.claims.installed import load_claims
from deltatune.core.claims.reproduction import Request, carry_out, plan
from deltatune.recyclable.claims import CLAIMS, bench, compatibility, figures, lending, training, upgrading
from deltatune.recyclable.claims.bench import Arm, Outdated, curve, reached
from deltatune.recyclable.claims.training import saved_updates

HEADLINES = ["C1", "C2", "C3", "C6", "C7", "C11"]
here = pytest.mark.skipif("m0" not in world_models.names(), reason="the models of the world are not there")


def test_every_claim_of_the_specification_is_declared_with_controls():
    assert [claim.id for claim in CLAIMS] == [f"C{number}" for number in range(1, 14)]
    assert [claim.id for claim in CLAIMS if claim.tier == "headline"] == HEADLINES
    assert load_claims("recyclable", "deltatune.recyclable.claims") == CLAIMS
    assert all(claim.seeds >= 5 and claim.controls and claim.statement and not claim.draft for claim in CLAIMS)
    assert all(claim.figures for claim in CLAIMS)


def run_of(folder: Path, scores: list[float], before: float | None = None) -> SharedRun:
    """A finished run with these scores on dev after every 20 updates."""
    folder.mkdir()
    rows = [{"kind": "curve", "split": "dev", "step": 20 * (i + 1), "value": value} for i, value in enumerate(scores)]
    if before is not None:
        rows.insert(0, {"kind": "before", "split": "dev", "step": 0, "value": before})
    (folder / "records.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return SharedRun(folder, {})


def test_updates_are_counted_to_the_first_evaluation_that_reaches_95_percent_of_the_final_score(tmp_path):
    afresh = run_of(tmp_path / "afresh", [0.5, 0.6, 0.77, 0.76, 0.8])  # 95% of 80 points are 76
    helped = run_of(tmp_path / "helped", [0.7, 0.8, 0.8, 0.8, 0.8], before=0.5)
    at_once = run_of(tmp_path / "at-once", [0.5] * 5, before=0.9)
    never = run_of(tmp_path / "never", [0.5] * 5, before=0.5)
    assert curve(helped)[:2] == [(0, 50.0), (20, 70.0)]
    assert [reached(run, 76.0, 120) for run in (afresh, helped, at_once, never)] == [60, 40, 0, 120]
    assert saved_updates(afresh, helped) == pytest.approx(100 / 3)
    assert saved_updates(afresh, at_once) == pytest.approx(100)
    assert saved_updates(afresh, never) == pytest.approx(-100)
    assert saved_updates(afresh, run_of(tmp_path / "shorter", [0.5], before=0.5)) == pytest.approx(-100)


def test_the_weight_of_the_layers_is_chosen_on_dev_alone():
    def run(dev: float, loss: float, test: float) -> SharedRun:
        return SharedRun(Path(), {"scores": {"dev": {"value": dev, "loss": loss}, "test": {"value": test, "loss": 0.0}}})

    runs = {"0": run(0.6, 0.5, 0.9), "10": run(0.7, 0.5, 0.4), "50": run(0.7, 0.4, 0.3)}
    assert lending.chosen(runs, (0.0, 10.0)) is runs["10"]
    assert lending.chosen(runs, (0.0, 10.0, 50.0)) is runs["50"]  # equal scores: the lower loss


def test_a_seed_decides_all_that_is_random_and_a_student_has_another_head_than_its_teacher():
    few, whole = training.few(bench.NEW, 3).config(), Arm("Full", bench.OLD, bench.ASPECT, 3, 3).config()
    seeds = [(c.init_seed, c.task.sample_seed, c.train.data_seed, c.train.dropout_seed) for c in (few, whole)]
    assert seeds == [(1003, 1003, 1003, 1003), (3, 0, 3, 3)]
    assert (few.task.shots, whole.task.shots, few.task.max_dev, whole.task.max_dev) == (16, None, None, bench.DEV)


@here
def test_random_and_untuned_stand_ins_of_an_outdated_delta(tmp_path, monkeypatch):
    from deltatune.core import checkpoint

    monkeypatch.setattr(bench, "EASY_UPDATES", 2)
    monkeypatch.setattr(bench, "TEST", 8)
    context = Context(Store(tmp_path / "store"))
    source = bench.outdated(context, 0, task="world/topic-0")
    random, blank = bench.randomized(context, source, 0), bench.blank(context, source, 0)
    old, noise, nothing = (checkpoint.read(one.path) for one in (source, random, blank))
    for name, tensor in old.weights.items():
        if name in old.head:
            assert torch.equal(noise.weights[name], tensor)
            assert not torch.equal(nothing.weights[name], tensor)
        else:
            torch.testing.assert_close(noise.weights[name].norm(), tensor.norm())
            assert not nothing.weights[name].any()
    assert isinstance(random, Outdated)
    assert random.key != blank.key != source.key


@here
def test_a_shortened_run_of_one_claim_gives_a_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TASKS", ("world/topic-0",))
    monkeypatch.setattr(bench, "EASY_UPDATES", 2)
    monkeypatch.setattr(bench, "TEST", 8)
    planned = plan(Request({"recyclable": "deltatune.recyclable.claims"}, only=("C1",), seeds=1))
    [claim] = carry_out(planned, tmp_path / "out", 1, {"command": "test"}, "{}\n", lambda done: None)
    assert claim["id"] == "C1"
    assert claim["verdict"] in ("void", "inconclusive"), claim["reason"]
    assert {control["name"] for control in claim["controls"]} == {"head", "random", "untuned"}
    assert (tmp_path / "out" / claim["figures"][0]["file"]).is_file()
    assert "C1" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@here
def test_label_maps_are_balanced_and_all_different():
    from deltatune.core.data import load_task

    task = upgrading._mapped(load_task(upgrading.RELATIONS, None, max_test=60), upgrading.MAPS[0])
    assert task.labels == ("no", "yes")
    share = sum(example.label == "yes" for example in task.train) / len(task.train)
    assert share == pytest.approx(0.5, abs=0.01)
    sides = {frozenset((frozenset(members), frozenset(range(6)) - frozenset(members))) for members in upgrading.MAPS}
    assert len(sides) == len(upgrading.MAPS)


def test_the_figures_are_drawn():
    from matplotlib.figure import Figure

    for draw, row in (
        (figures.scores, {"arm": "a", "score": 1.0}),
        (figures.compatibility, {"what": "a", "task": "t", "score": 1.0}),
        (figures.stages, {"base": "b", "task": "t", "loss": 1.0, "score": 2.0}),
        (figures.lines, {"pair": "p", "x": 0.0, "loss": 1.0, "value": 2.0}),
        (figures.convergence, {"arm": "a", "step": 20, "value": 1.0}),
        (figures.distances, {"base": "b", "distance": 1.0}),
        (figures.correlations, {"pair": "p", "how": "same", "correlation": 0.5}),
        (figures.verdicts, {"claim": "C1 apply", "value": 1.0}),
    ):
        canvas = Figure()
        draw(canvas, [{"seed": seed, **row} for seed in (0, 1)])
        assert canvas.axes


def test_compatibility_is_measured_against_each_control(monkeypatch):
    source = Outdated(Path(), {"outdated": 1}, "Full", bench.ASPECT)
    values = {(bench.NEW, 1.0): 0.9, (bench.OTHER, 1.0): 0.5, (bench.NEW, 0.0): 0.6, (bench.NEW, None): 0.55}
    monkeypatch.setattr(bench, "TASKS", (bench.ASPECT,))
    monkeypatch.setattr(compatibility, "outdated", lambda *given: source)
    monkeypatch.setattr(compatibility, "randomized", lambda *given: Outdated(Path(), {}, "Full", "random"))
    monkeypatch.setattr(compatibility, "solved", lambda *given: 40.0)

    def applied(context, found, base, how=None, head=0):
        value = 0.7 if found.task == "random" else values[base, None if how is None else how.scale]
        return {"value": value, "loss": 0.0}

    monkeypatch.setattr(compatibility, "applied", applied)
    effects = CLAIMS[0].run(Context(Store(Path())), 0)
    CLAIMS[0].check(effects)
    assert effects.effect == pytest.approx(40.0)
    assert effects.controls == pytest.approx({"head": 30.0, "random": 20.0, "untuned": 35.0})
