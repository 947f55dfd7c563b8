"""From measurements to the object of a claim in `claims.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltatune.core.claims.claim import Claim
from deltatune.core.claims.installed import CORE
from deltatune.core.claims.interval import Interval, as_table, interval
from deltatune.core.claims.running import Done
from deltatune.core.claims.verdict import Judgement, judge, lies, rule
from deltatune.core.errors import DeltatuneError
from deltatune.core.run import digest_of, plain, versions

NOTHING = Interval(float("nan"), None, None, 0, "")


def outcome(claim: Claim, seeds: Sequence[int], done: Sequence[Done]) -> dict[str, Any]:
    """What was declared, what was measured and the verdict, as plain values.

    Args:
        claim: the declaration.
        seeds: those that were to be run; empty if the claim was left out.
        done: how each of them ended, in any order.
    """
    units = sorted((unit for unit in done if unit.measured is not None), key=lambda unit: unit.unit.seed)
    failed = [unit for unit in done if unit.measured is None]
    measured = [{"seed": unit.unit.seed, **unit.measured} for unit in units if unit.measured is not None]
    effect, controls, gates = NOTHING, _controls(claim, []), _gates(claim, [])
    broken = any(not unit.expected for unit in failed)
    if failed or len(measured) < len(seeds):
        judgement = Judgement("not run", failed[0].error if failed else "it was interrupted")
    elif not measured:
        draft = "it is a draft: its rates and lengths are not chosen yet; --only runs it"
        judgement = Judgement("not run", draft if claim.draft else "it is not one of the headlines; --all runs it")
    else:
        try:
            effect, controls, gates, judgement = _judged(claim, measured)
        except DeltatuneError as error:
            judgement, broken = Judgement("not run", str(error)), True
    holding = [gate["holds"] for gate in gates]
    return {
        **_declared(claim, seeds),
        **_numbers(effect),
        "n_units": effect.n_units,
        "method": effect.method,
        "gate": {"holds": None if None in holding else all(holding), "conditions": gates},
        "controls": controls,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "smallest_effect": judgement.smallest,
        "failed": broken,
        "seconds": round(sum(unit["seconds"] for unit in measured), 3),
        "per_seed": [{key: unit[key] for key in ("seed", "effect", "controls", "gates")} for unit in measured],
    }


def _judged(claim: Claim, measured: Sequence[dict[str, Any]]) -> tuple[Interval, list[Any], list[Any], Judgement]:
    effect = interval(as_table([unit["effect"] for unit in measured]), claim.resampled, claim.exact)
    controls, gates = _controls(claim, measured), _gates(claim, measured)
    failed_gates = [gate["statement"] for gate in gates if not gate["holds"]]
    return effect, controls, gates, judge(claim, effect, {row["name"]: bool(row["holds"]) for row in controls}, failed_gates)


def command(claim: Claim, seeds: Sequence[int]) -> str:
    """What to type to run `claim` again with these seeds."""
    program = "deltatune" if claim.paper == CORE else f"deltatune-{claim.paper}"
    name = claim.name if claim.paper == CORE else claim.id
    words = [program, "reproduce", "--only", name]
    if seeds:
        words += ["--seeds", str(len(seeds)), "--seed_offset", str(seeds[0])]
    return " ".join(words)


def _declared(claim: Claim, seeds: Sequence[int]) -> dict[str, Any]:
    identity = {"claim": claim.name, "settings": plain(dict(claim.settings)), "seeds": list(seeds), "versions": versions()}
    return {
        "id": claim.id,
        "paper": claim.paper,
        "statement": claim.statement,
        "source": claim.source,
        "paper_value": claim.paper_value,
        "statistic": claim.statistic,
        "unit": claim.unit,
        "side": claim.side,
        "bound": claim.bound,
        "rule": rule(claim),
        "resampled": claim.resampled,
        "tier": claim.tier,
        "seeds": list(seeds),
        "command": command(claim, seeds),
        "config_digest": digest_of(identity),
    }


def _numbers(found: Interval) -> dict[str, float | None]:
    return {"effect": found.effect if found.n_units else None, "ci_low": found.low, "ci_high": found.high}


def _controls(claim: Claim, measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is measured of each control; declared and empty where nothing was."""
    rows = []
    for control in claim.controls:
        facts = {"statement": control.statement, "side": control.side, "bound": control.bound}
        found, holds = NOTHING, None
        if measured:
            table = as_table([unit["controls"][control.name] for unit in measured])
            found = interval(table, claim.resampled, claim.exact or control.exact)
            holds = lies(found, control.side, control.bound)
        rows.append({"name": control.name, **_numbers(found), **facts, "holds": holds})
    return rows


def _gates(claim: Claim, measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same of each gate."""
    rows = []
    for gate in claim.gates:
        value = sum(unit["gates"][gate.name] for unit in measured) / len(measured) if measured else None
        holds = None if value is None else gate.at_least <= value <= gate.at_most
        rows.append({"name": gate.name, "statement": gate.statement, "measured": value, "holds": holds})
    return rows
