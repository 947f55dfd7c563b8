"""The core's own claims on made-up scores, and a run that claims share on a real tiny model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from deltatune.core.backbone import BackboneConfig
from deltatune.core.claims import CannotRunError, Context, Store, core_claims
from deltatune.core.claims.core_claims import BASE, BLANK, CLAIMS, STEPS, TASKS, config
from deltatune.core.delta import LoRA, attach
from deltatune.core.reuse import open_run
from deltatune.core.train_config import TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig


@dataclass
class Scores:
    """A context whose runs have the score that `of(base, kind)` gives."""

    of: object
    asked: list = field(default_factory=list)

    def tuned(self, config):
        kind = config.deltas[0].describe()["kind"]
        self.asked.append(config)
        return Run(self.of(config.backbone.model, kind), {"trainable": {kind: 1000 if kind != "LoRA" else 1040, "head": 7}})


@dataclass
class Run:
    value: float
    facts: dict

    def score(self):
        return self.value


@pytest.fixture(autouse=True)
def models(monkeypatch):
    """Pretend that the models of the world are there."""
    monkeypatch.setattr(core_claims, "_need_models", lambda: None)
    monkeypatch.setattr(core_claims, "_untuned", lambda context, base: 65.0)


def _of(base, kind):
    step = {BLANK: 0.5, STEPS[0]: 0.6, STEPS[1]: 0.7, BASE: 0.75}[base]
    return step + {"Houlsby": 0.02, "LoRA": 0.0, "Prefix": -0.02}[kind]


def test_each_claim_measures_what_it_declares():
    first, second, third = (claim.run(Scores(_of), 3) for claim in CLAIMS)
    for claim, effects in zip(CLAIMS, (first, second, third), strict=True):
        claim.check(effects)
    assert first.effect == pytest.approx(25.0)
    assert first.controls == pytest.approx({"Houlsby": 25.0, "LoRA": 25.0, "Prefix": 25.0, "untuned": 10.0})
    assert second.effect == pytest.approx(4.0)
    assert second.controls == pytest.approx({"size": 4.0, "untuned": 8.0})
    assert third.effect == pytest.approx(15.0)
    assert third.controls == pytest.approx({"late": 5.0, "start": 25.0})
    # Two of the tasks have two classes, one has six.
    assert third.gates["above_chance"] == pytest.approx(75 - (50 + 50 + 100 / 6) / 3)


def test_a_seed_decides_all_that_is_random():
    scores = Scores(_of)
    CLAIMS[0].run(scores, 3)
    seeds = {(c.init_seed, c.task.sample_seed, c.train.data_seed, c.train.dropout_seed) for c in scores.asked}
    assert seeds == {(3, 3, 3, 3)}
    assert {c.task.task for c in scores.asked} == set(TASKS)


def test_the_deltas_that_are_compared_have_one_size(tiny):
    sizes = set()
    for kind in core_claims.KINDS:
        tuned = attach(
            tiny("roberta-prompt"), *config(BASE, TASKS[0], kind, 0).deltas, generator=torch.Generator().manual_seed(0)
        )
        sizes.add(sum(weights.numel() for weights in tuned.weights().values()))
    assert len(sizes) == 1


def test_the_figures_are_drawn():
    from matplotlib.figure import Figure

    for claim in CLAIMS:
        records = [{"seed": seed, **record} for seed in (0, 1) for record in claim.run(Scores(_of), seed).records]
        for figure in claim.figures:
            canvas = Figure()
            figure.draw(canvas, records)
            assert canvas.axes


def test_without_the_models_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(core_claims, "files", lambda package: tmp_path)
    with pytest.raises(CannotRunError, match="no pre-trained models of the built-in world"):
        CLAIMS[0].run(Scores(_of), 0)


def test_a_run_is_tuned_once_and_can_be_taken_up(reviews, tmp_path, monkeypatch):
    settings = TuneConfig(
        BackboneConfig(str(reviews.with_name("model")), device="cpu"), TaskChoice(str(reviews)), (LoRA(rank=2),),
        TrainConfig(steps=2, batch_size=4),
    )  # fmt: skip
    context = Context(Store(tmp_path / "store"))
    run = context.tuned(settings)
    assert 0 <= run.score() <= 1
    assert run.facts["status"] == "finished"
    assert open_run(run.path) is not None
    monkeypatch.setattr("deltatune.core.tuning.tune_to", lambda *given, **more: pytest.fail("tuned twice"))
    assert context.tuned(settings) == run
    with pytest.raises(pytest.fail.Exception):
        context.tuned(replace(settings, init_seed=1))
