"""The paper's claims as executable experiments on the built-in world (`deltatune-ensemble reproduce`)."""

from __future__ import annotations

from deltatune.core.claims import Claim
from deltatune.ensemble.claims.further import FURTHER
from deltatune.ensemble.claims.headlines import HEADLINES


def _number(claim: Claim) -> int:
    return int(claim.id[1:].partition("-")[0])


CLAIMS = tuple(sorted((*HEADLINES, *FURTHER), key=_number))
