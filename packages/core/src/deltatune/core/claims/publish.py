"""The files of a finished `reproduce`: claims.json, table.md, report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.core.claims.page import page
from deltatune.core.claims.table import markdown
from deltatune.core.claims.verdict import VERDICTS
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, write_json, write_text

_TEXTS = (
    "id",
    "paper",
    "statement",
    "source",
    "unit",
    "rule",
    "verdict",
    "tier",
    "command",
    "statistic",
    "reason",
    "method",
    "side",
)
_NUMBERS = ("effect", "ci_low", "ci_high", "seconds", "bound")
_OTHERS = ("paper_value", "gate", "controls", "seeds", "n_units", "per_seed")


def write_claims(out_dir: Path, claims: Sequence[Mapping[str, Any]]) -> None:
    """Write `claims.json`: a list with one object for each claim."""
    write_json(out_dir / "claims.json", list(claims))


def read_claims(run: Path) -> list[dict[str, Any]]:
    """The objects of `claims.json` in the folder `run`.

    Raises:
        DeltatuneError: missing, damaged, or not as `reproduce` writes it.
    """
    file = run / "claims.json"
    claims = read_json(file)
    if not isinstance(claims, list):
        raise DeltatuneError(f"{file} does not hold a list of claims")
    for index, claim in enumerate(claims):
        if (wrong := _wrong(claim)) is not None:
            raise DeltatuneError(f"{file}: claim {index + 1}: {wrong}; make it again with `deltatune reproduce`")
    return claims


def write_report(out_dir: Path, claims: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> None:
    """Write `table.md` and `report.html`.

    Args:
        out_dir: where they go, and where the figures are.
        claims: as in `claims.json`.
        run: what `run.json` says.
    """
    write_text(out_dir / "table.md", markdown(claims))
    write_text(out_dir / "report.html", page(claims, _facts(run), out_dir))


def _facts(run: Mapping[str, Any]) -> dict[str, str]:
    versions = run.get("versions", {})
    facts = {
        "command": run.get("command"),
        "version": versions.get("deltatune-core"),
        "torch": versions.get("torch"),
        "device": run.get("device"),
        "workers": run.get("workers"),
        "wall time": f"{run['seconds']:.0f} s" if isinstance(run.get("seconds"), (int, float)) else None,
        "finished": run.get("finished"),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _wrong(claim: Any) -> str | None:
    """What keeps `claim` from being shown."""
    if not isinstance(claim, dict):
        return "not an object"
    missing = [key for key in (*_TEXTS, *_NUMBERS, *_OTHERS) if key not in claim]
    if missing:
        return f"it has no {missing[0]}"
    wrong = [key for key in _TEXTS if not isinstance(claim[key], str)] + [key for key in _NUMBERS if not _number(claim[key])]
    if wrong:
        return f"{wrong[0]} is {claim[wrong[0]]!r}"
    return None if claim["verdict"] in VERDICTS else f"verdict is {claim['verdict']!r}; choose {', '.join(VERDICTS)}"


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value))
