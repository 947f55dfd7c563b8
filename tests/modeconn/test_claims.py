"""The claims are declared as the specification has them, and run."""

from __future__ import annotations

import pytest

from deltatune.core import world_models
from deltatune.core.claims import Context, Effects, Store
from deltatune.core.claims.installed import load_claims
from deltatune.modeconn.claims import CLAIMS, bench

HEADLINES = ["C1", "C3", "C4", "C10", "C12", "C14"]


def test_every_claim_of_the_specification_is_declared_with_controls():
    ids = [claim.id for claim in CLAIMS]
    assert ids == [*(f"C{number}" for number in range(1, 15)), "C3-std", "C1-t5", "C2-t5", "C12-t5"]
    assert [claim.id for claim in CLAIMS if claim.tier == "headline"] == HEADLINES
    assert load_claims("modeconn", "deltatune.modeconn.claims") == CLAIMS
    assert all(claim.seeds >= 5 for claim in CLAIMS)


FEW = {"aspect": (4, 8), "sentiment": (4, 8)}
TINY = {"LENGTHS": FEW, "TEXT_LENGTH": (4, 8), "SCORED": {"aspect": 12, "sentiment": 12}, "POINTS": 3, "CURVE_POINTS": 3}
TINY |= {"SEEN": 24, "CURVE_UPDATES": 1, "MIX_UPDATES": 1, "DRAWS": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Runs and lines that several claims share."""
    return Store(tmp_path_factory.mktemp("claims"))


@pytest.mark.skipif("m0" not in world_models.names(), reason="the models of the world are not there")
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_an_experiment_measures_what_its_claim_declares(claim, store, monkeypatch):
    for name, value in TINY.items():
        monkeypatch.setattr(bench, name, value)
    claim.check(claim.run(Context(store), 0))


def test_a_void_pair_is_drawn_again_counted_and_shown():
    asked = []

    def experiment(context, seed):
        asked.append(seed)
        return Effects(float(seed), {}, {"above_chance": 30.0, "apart": 5.0 if len(asked) < 2 else 1.0}, [{"pair": "line"}])

    found = bench.redrawn(experiment, bench.GOOD, None, 3)
    assert (asked, found.effect, found.gates["void"]) == ([3, 10_003], 10_003.0, 1.0)
    assert found.records == [{"pair": "line"}, {"pair": "void", "draw": 0, "above_chance": 30.0, "apart": 5.0}]
    asked.clear()
    never = bench.redrawn(experiment, (bench.ABOVE.__class__("above_chance", "", at_least=40.0),), None, 3)
    assert never.gates["void"] == bench.DRAWS > bench.VOID.at_most
