"""The claims are declared as the specification has them, measure what they declare, and end in a verdict."""

from __future__ import annotations

import pytest
import torch

from deltatune.core import world_models
from deltatune.core.claims import Context, Store
from deltatune.core.claims.installed import load_claims
from deltatune.core.claims.outcome import outcome as judged
from deltatune.core.claims.running import Unit, measure
from deltatune.core.weights import combine
from deltatune.ensemble.claims import CLAIMS, bench, measured, starts, transfer
from deltatune.ensemble.claims.bench import Case
from deltatune.ensemble.claims.starts import AVERAGE, LOSS, Start
from deltatune.ensemble.claims.unaligned import with_units_shuffled

HEADLINES = ["C1", "C4", "C5", "C7", "C8", "C14"]
needs_world = pytest.mark.skipif("t5" not in world_models.names(), reason="the models of the world are not there")


@pytest.fixture
def short(monkeypatch):
    """Everything as small as it can be."""
    for name, value in {
        "SHOTS": 2,
        "TEST": 8,
        "UPDATES": 2,
        "EVERY": 1,
        "EXAMPLES": 4,
        "TARGETS": ("aspect-2",),
    }.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "SOURCES", ("aspect-1", "aspect-2", "topic-1", "topic-2", "sentiment-1"))
    for kept in (bench.shipped, bench.task_of):
        kept.cache_clear()
    yield
    for kept in (bench.shipped, bench.task_of):
        kept.cache_clear()


def by_id(name):
    return next(claim for claim in CLAIMS if claim.id == name)


def test_every_claim_of_the_specification_is_declared_with_controls():
    assert [claim.id for claim in CLAIMS] == ["C1", "C1-five", *(f"C{number}" for number in range(2, 15))]
    assert [claim.id for claim in CLAIMS if claim.tier == "headline"] == HEADLINES
    assert not [claim.id for claim in CLAIMS if claim.draft]
    assert load_claims("ensemble", "deltatune.ensemble.claims") == CLAIMS
    assert all(claim.seeds >= 5 or claim.exact for claim in CLAIMS)
    assert all(claim.statement and claim.controls for claim in CLAIMS)


def test_targets_are_none_of_the_void_kinds_and_no_source_of_the_few():
    kinds = {name.rpartition("-")[0] for name in (*bench.SOURCES, *bench.TARGETS, *bench.FEW)}
    assert not kinds & {"acceptability", "similarity"}
    assert set(bench.TARGETS) <= set(bench.SOURCES)
    assert not set(bench.TARGETS) & set(bench.FEW)


def test_the_published_sizes_are_reproduced(tmp_path):
    claim = by_id("C5")
    found = judged(claim, [1], [measure(Unit(claim, "deltatune.ensemble.claims", 1), tmp_path)])
    assert (found["verdict"], found["effect"]) == ("reproduced", 0)


@needs_world
def test_a_shortened_claim_ends_in_a_verdict(short, tmp_path):
    claim = by_id("C1")
    found = judged(claim, [1], [measure(Unit(claim, "deltatune.ensemble.claims", 1), tmp_path)])
    assert found["verdict"] in ("inconclusive", "void"), found["reason"]
    assert set(found["per_seed"][0]["effect"]) == set(bench.TARGETS)


@needs_world
def test_sources_of_several_starts_are_compared(short, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "FEW", ("aspect-0", "topic-0"))
    monkeypatch.setattr(bench, "SOURCES", (*bench.SOURCES, *bench.FEW))
    monkeypatch.setattr(bench, "ROOMY", bench.TARGETS)
    claim, context = by_id("C14"), Context(Store(tmp_path))
    claim.check(claim.run(context, 1))
    one, other = bench.pool("apart", Case("aspect-2", 1)).values()
    shared = bench.pool("few", Case("aspect-2", 1))
    assert [one.name, other.name] == list(shared)
    assert not any(torch.equal(one.delta[name], shared["aspect-0"].delta[name]) for name in one.delta)


@needs_world
def test_starts_are_mixtures_of_foreign_sources(short, tmp_path):
    context, case = Context(Store(tmp_path)), Case("aspect-2", 1)
    sources = bench.pool("all", case)
    assert set(sources) == {"aspect-1", "topic-1", "topic-2", "sentiment-1"}
    even = combine([one.delta for one in sources.values()], [0.25] * 4)
    found = starts.values(context, case, AVERAGE)
    assert all(torch.allclose(found[name], even[name]) for name in even)
    by_hand = starts.weighted(context, case, Start("manual"))["weights"]
    assert by_hand == {"aspect-1": 1.0, "topic-1": 0.0, "topic-2": 0.0, "sentiment-1": 0.0}
    weights, dealt = (starts.weighted(context, case, start)["weights"] for start in (LOSS, Start("dealt")))
    assert sorted(dealt.values()) == sorted(weights.values())
    assert sum(weights.values()) == pytest.approx(1)


@needs_world
def test_shuffled_units_change_the_tensors_and_not_the_function():
    one = bench.source("aspect-1", world_models.DELTAS / "aspect-1" / "Houlsby")
    other = with_units_shuffled(one, 3)
    down, up = (next(name for name in one.delta if name.endswith(f".houlsby_{end}.weight")) for end in ("down", "up"))
    states = torch.randn(5, one.delta[down].shape[1], generator=torch.Generator().manual_seed(0))
    before, after = (torch.nn.functional.silu(states @ end[down].T) @ end[up].T for end in (one.delta, other.delta))
    assert not torch.equal(one.delta[down], other.delta[down])
    torch.testing.assert_close(before, after)


def test_statistics_by_hand():
    assert transfer._wins({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.0, "b": 2.0, "c": 4.0}) == {"a": 100.0, "b": 50.0, "c": 0.0}
    curve = [(0, 10.0), (4, 50.0), (8, 45.0)]
    assert [transfer.reached(curve, wanted) for wanted in (5.0, 50.0, 60.0)] == [0, 4, 8 + transfer.CLOSE]
    assert measured.between_modules([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]) == 0
    assert measured.between_modules([[0.0, 0.0], [2.0, 2.0]]) == pytest.approx(2)
    assert measured.rank_correlation([1, 2, 3], [1, 5, 9]) == pytest.approx(1)
    assert measured.rank_correlation([1, 1, 1], [1, 5, 9]) == 0
    own = {name: name.rpartition("-")[0] + "-0" for name in measured.NEAR}
    assert measured.permuted(own, 0) < 0.01
    assert measured._limits({"a": 0.1, "b": 0.2, "c": 3.0}) < 1e-6
