"""Where heads are fitted, a source is scored on each example by a head that has not seen it."""

from __future__ import annotations

import pytest
import torch

from deltatune.core.tune_config import TaskChoice
from deltatune.ensemble.bench import Bench
from deltatune.ensemble.crossing import PARTS, Crossing, with_examples
from deltatune.ensemble.mixture import losses, mixture
from deltatune.ensemble.scoring import score_sources
from deltatune.ensemble.suggestion import BUDGET, SINGLE, suggest, weigh

CHOICE = TaskChoice("world/sentiment-2", max_length=64, max_train=16, max_dev=4, max_test=4)


@pytest.fixture
def prepared(bench):
    return Bench(bench / "encoder/lora", device="cpu", head="probe").prepare("sentiment-2", CHOICE, BUDGET)


def test_each_example_is_scored_by_the_others_head(prepared):
    crossing, name = Crossing.of(prepared), "topic-0"
    train = prepared.target.task.train
    assert sorted(place for part in crossing.parts for place in part) == list(range(16))
    assert len(crossing.parts) == PARTS
    found = crossing.scores([name], ["loss", "grand"])
    total = {"loss": 0.0, "grand": 0.0}
    for part in crossing.parts:
        rest = [example for place, example in enumerate(train) if place not in part]
        there = with_examples(prepared, rest, [train[place] for place in part])
        by_hand = score_sources(there.target, {name: there.complete(name)}, ["loss", "grand"])
        total["loss"] += by_hand["loss"][name]["all"] * len(part) / 16
        total["grand"] += by_hand["grand"][name]["all"]
    assert {measure: row[name] for measure, row in found.items()} == pytest.approx(total, rel=1e-4)


def test_the_loss_of_a_mixture_is_that_of_heads_fitted_to_it_without_the_example(prepared):
    crossing, weights = Crossing.of(prepared), {"sentiment-0": 0.25, "topic-0": 0.75}
    train, found = prepared.target.task.train, []
    for part in crossing.parts:
        rest = [example for place, example in enumerate(train) if place not in part]
        there = with_examples(prepared, rest, [train[place] for place in part])
        found += losses(there.target, mixture(there, weights), there.target.task.dev)
    assert crossing.loss(weights) == pytest.approx(sum(found) / 16, rel=1e-4)


def test_a_source_that_fits_what_it_has_seen_is_not_taken_for_a_good_one(prepared, monkeypatch):
    """A source that tells every example from every other has no loss on what its head was fitted to, and says nothing else."""
    target, names = prepared.target, list(prepared.sources)
    true = torch.tensor([feature["labels"] for feature in target.training])

    def crossed(delta, parts):
        good = torch.equal(delta[next(iter(delta))], prepared.sources[names[1]].delta[next(iter(delta))])
        logits = 2.0 * torch.nn.functional.one_hot(true, 2) if good else torch.zeros(len(true), 2)
        return logits.float(), [{} for _ in parts]

    monkeypatch.setattr(type(target), "crossed", lambda self, delta, parts: crossed(delta, parts))
    assert weigh(prepared, ["loss"], None, False)[SINGLE].weights[names[1]] == 1.0


def test_suggestions_with_fitted_heads_have_evidence_on_every_example(prepared):
    found = suggest(prepared, ["loss", "grand"], folds=2, learned=False)
    assert {item.name for item in found.evidence} == {"uniform", "best single", "loss", "grand"}
    assert all(len(item.held_out) == 16 for item in found.evidence)
