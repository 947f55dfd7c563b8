"""The claims are declared as the specification has them, and run."""

from __future__ import annotations

import pytest

from deltatune.core import world_models
from deltatune.core.claims import Context, Store
from deltatune.core.claims.installed import load_claims
from deltatune.modeconn.claims import CLAIMS, bench

HEADLINES = ["C1", "C3", "C4", "C10", "C12", "C14"]


def test_every_claim_of_the_specification_is_declared_with_controls():
    ids = [claim.id for claim in CLAIMS]
    assert ids == [*(f"C{number}" for number in range(1, 15)), "C1-t5", "C2-t5", "C12-t5"]
    assert [claim.id for claim in CLAIMS if claim.tier == "headline"] == HEADLINES
    assert load_claims("modeconn", "deltatune.modeconn.claims") == CLAIMS
    assert all(claim.seeds >= 5 for claim in CLAIMS)


TINY = {"TRAIN": 24, "UPDATES": 4, "POINTS": 3, "CURVE_UPDATES": 1, "MIX_UPDATES": 1, "SCORED": 12}


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
