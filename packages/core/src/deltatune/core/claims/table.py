"""Claims as text: the numbers of one claim, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deltatune.core.claims.verdict import VERDICTS

COLUMNS = ("Paper", "Claim", "Statement", "Published", "Measured (95% interval)", "Verdict")


def number(value: float | None) -> str:
    """Three significant digits, a true minus sign, and a dash for nothing."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")  # noqa: RUF001


def measured(claim: Mapping[str, Any]) -> str:
    """The effect of a claim (or of a control) with its interval and unit."""
    if claim["effect"] is None:
        return "–"  # noqa: RUF001
    unit = f" {claim['unit']}" if claim.get("unit") else ""
    if claim["ci_low"] is None:
        return f"{number(claim['effect'])} [no interval]{unit}"
    if claim["ci_low"] == claim["ci_high"]:
        return f"{number(claim['effect'])}{unit}"
    return f"{number(claim['effect'])} [{number(claim['ci_low'])}, {number(claim['ci_high'])}]{unit}"


def verdict(claim: Mapping[str, Any]) -> str:
    """The verdict, with its reason where it needs one."""
    plain = claim["verdict"] in ("reproduced", "contradicted")
    return str(claim["verdict"]) if plain else f"{claim['verdict']}: {claim['reason']}"


def cells(claim: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table, in the order of `COLUMNS`."""
    published = claim["paper_value"] or "–"  # noqa: RUF001
    return claim["paper"], claim["id"], claim["statement"], published, measured(claim), verdict(claim)


def counts(claims: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each verdict that occurs, in the order of `VERDICTS`."""
    found = [claim["verdict"] for claim in claims]
    return {verdict: found.count(verdict) for verdict in VERDICTS if verdict in found}


def summary(claims: Iterable[Mapping[str, Any]]) -> str:
    """The counts in one line."""
    return ", ".join(f"{count} {verdict}" for verdict, count in counts(claims).items()) or "no claims"


def markdown(claims: Iterable[Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    claims = list(claims)
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(tuple(_escaped(cell) for cell in cells(claim)) for claim in claims)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "# Findings\n\n" + summary(claims) + ".\n\n" + "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text that Markdown prints as it is within a cell."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
