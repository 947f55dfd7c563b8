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


@pytest.mark.skipif("m0" not in world_models.names(), reason="the models of the world are not there")
@pytest.mark.parametrize("name", ["C1", "C10"])
def test_an_experiment_measures_what_its_claim_declares(name, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TRAIN", 24)
    monkeypatch.setattr(bench, "UPDATES", 2)
    [claim] = [claim for claim in CLAIMS if claim.id == name]
    claim.check(claim.run(Context(Store(tmp_path)), 0))
