"""The claims of the core and of every installed paper."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from deltatune.core.claims.claim import Claim
from deltatune.core.errors import DeltatuneError
from deltatune.core.run import digest_of

CORE = "core"


def sources() -> dict[str, str]:
    """The modules that hold claims, by paper: `core`, then the installed papers.

    A paper is found through the entry-point group `deltatune.papers`; the `CLAIMS` of the submodule `claims` of its entry point
    are its claims.
    """
    found = sorted(entry_points(group="deltatune.papers"))
    return {CORE: "deltatune.core.claims.core_claims"} | {entry.name: f"{entry.value}.claims" for entry in found}


def load_claims(paper: str, module: str) -> tuple[Claim, ...]:
    """The claims that `module` holds; none if there is no such module.

    Raises:
        DeltatuneError: two have one id, or one is another paper's.
    """
    try:
        if importlib.util.find_spec(module) is None:
            return ()
    except ModuleNotFoundError:
        return ()
    claims: tuple[Claim, ...] = importlib.import_module(module).CLAIMS
    ids = [claim.id for claim in claims]
    wrong = [claim.name for claim in claims if claim.paper != paper or ids.count(claim.id) > 1]
    if wrong:
        raise DeltatuneError(f"{module}: claim {wrong[0]} is not of the paper {paper}, or its id is given twice")
    return claims


def select(claims: Iterable[Claim], every: bool, only: Iterable[str]) -> list[Claim]:
    """The claims to run: the headlines, all of them, or those named, whatever their tier and state.

    Args:
        claims: of all papers asked for.
        every: those of the tier "all" as well.
        only: ids (`C3`, of each paper that has it) or paper and id (`modeconn/C3`).

    Raises:
        DeltatuneError: a name fits no claim.
    """
    claims = list(claims)
    names = {word: [claim for claim in claims if word in (claim.id, claim.name)] for word in only}
    for word, found in names.items():
        if not found:
            near = get_close_matches(word, [name for claim in claims for name in (claim.id, claim.name)], 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(claim.name for claim in claims) or 'none'}"
            raise DeltatuneError(f"--only {word}: there is no such claim; {hint}")
    if names:
        return [claim for claim in claims if any(claim in found for found in names.values())]
    return [claim for claim in claims if (every or claim.tier == "headline") and not claim.draft]


@cache
def code_digest(module: str) -> str:
    """Digest of the sources of the package that `module` is in: a measurement is kept only for the code that made it."""
    spec = importlib.util.find_spec(module.rpartition(".")[0] or module)
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    files = sorted(file for place in places for file in place.rglob("*.py"))
    if not files and spec is not None and spec.origin:
        files = [Path(spec.origin)]
    return digest_of([file.read_text(encoding="utf-8") for file in files])


def unit_config(claim: Claim, module: str, seed: int) -> Mapping[str, object]:
    """What a measurement of `claim` with `seed` is kept under."""
    return {"claim": claim.name, "seed": seed, "settings": claim.settings, "code": code_digest(module)}
