"""Writes what was found about the claims of a paper: docs/claims/PAPER.json, and its tables in the pages.

    uv run python docs/make_claims.py recyclable runs/first runs/second    # two sets of seeds, each a folder of `reproduce`
    uv run python docs/make_claims.py    # the tables again, from docs/claims
    uv run python docs/make_claims.py --check    # end with code 1 if a table is not what would be written

A table stands between `<!-- claims PAPER -->` and `<!-- /claims -->` in docs/claims.md and in the README of the package.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOUND = ROOT / "docs" / "claims"


def main(words: list[str]) -> int:
    """Write, or check."""
    check = words == ["--check"]
    if len(words) == 3:
        write(words[0], Path(words[1]), Path(words[2]))
    elif words and not check:
        sys.stderr.write("give PAPER and two folders of `reproduce`, or --check, or nothing\n")
        return 2
    stale = [path for path in pages() if path.read_text(encoding="utf-8") != filled(path)]
    if check and stale:
        names = ", ".join(path.relative_to(ROOT).as_posix() for path in stale)
        sys.stderr.write(f"{names}: not what docs/claims says; run `uv run python docs/make_claims.py`\n")
        return 1
    for path in stale:
        path.write_text(filled(path), encoding="utf-8", newline="\n")
    return 0


def pages() -> list[Path]:
    """The pages that may have tables."""
    return [ROOT / "docs" / "claims.md", *sorted(ROOT.glob("packages/*/README.md"))]


def write(paper: str, *folders: Path) -> None:
    """The objects of two sets of seeds side by side, with the ids whose verdict differs.

    Raises:
        SystemExit: the sets share a seed, or were not made by one list of claims.
    """
    sets = [[claim for claim in _read(folder) if claim["paper"] == paper] for folder in folders]
    ids = [[claim["id"] for claim in found] for found in sets]
    if not ids[0] or ids[0] != ids[1]:
        sys.exit(f"{folders[0]} and {folders[1]} do not hold the same claims of {paper}")
    seeds = [{seed for claim in found for seed in claim["seeds"]} for found in sets]
    if seeds[0] & seeds[1]:
        sys.exit(f"both sets have the seeds {sorted(seeds[0] & seeds[1])}; give --seed_offset another number in one")
    flipped = [one["id"] for one, two in zip(*sets, strict=True) if one["verdict"] != two["verdict"]]
    text = json.dumps({"sets": sets, "flipped": flipped}, indent=1, ensure_ascii=False)
    (FOUND / f"{paper}.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def _read(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    return found


def filled(path: Path) -> str:
    """The text of a page with its tables as they should be."""
    text = path.read_text(encoding="utf-8")
    return re.sub(
        r"(<!-- claims (\w+) -->\n).*?(<!-- /claims -->)",
        lambda found: found[1] + table(json.loads((FOUND / f"{found[2]}.json").read_text(encoding="utf-8"))) + found[3],
        text,
        flags=re.DOTALL,
    )


def table(found: dict[str, Any]) -> str:
    """One row for each claim, and which verdicts differ."""
    ranges = ["seeds " + _range(claims) for claims in found["sets"]]
    lines = [f"| claim | statement | unit | {' | '.join(ranges)} | verdict |", "|---|---|---|---|---|---|"]
    for one, two in zip(*found["sets"], strict=True):
        first, _, rest = one["statement"].partition(" ")
        statement = f"{first.lower() if first == first.capitalize() else first} {rest}"  # RoBERTa stays as it is written
        verdict = one["verdict"] if one["verdict"] == two["verdict"] else f"{one['verdict']}, {two['verdict']}"
        lines.append(f"| {one['id']} | {statement} | {one['unit']} | {_cell(one)} | {_cell(two)} | {verdict} |")
    differ = f"The verdict differs between the sets for {', '.join(found['flipped'])}."
    return "\n".join([*lines, "", differ if found["flipped"] else "No verdict differs between the sets."]) + "\n"


def _range(claims: list[dict[str, Any]]) -> str:
    seeds = sorted({seed for claim in claims for seed in claim["seeds"]})
    return f"{seeds[0]} to {seeds[-1]}"


def _cell(claim: dict[str, Any]) -> str:
    effect, low, high = claim["effect"], claim["ci_low"], claim["ci_high"]
    if effect is None:
        return "-"
    if low is None:
        return f"{effect:.3g}, no interval"
    return f"{effect:.3g}" if low == high else f"{effect:.3g} [{low:.3g}, {high:.3g}]"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
