"""The pages show what docs/claims holds of the findings."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOUND = sorted((ROOT / "docs/claims").glob("*.json"))
MAKE = runpy.run_path(str(ROOT / "docs/make_claims.py"))


def test_the_tables_are_those_of_the_objects():
    assert MAKE["main"](["--check"]) == 0
    page = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    for path in FOUND:
        assert MAKE["table"](json.loads(path.read_text(encoding="utf-8"))) in page


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_two_sets_of_seeds_and_what_differs(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    first, second = found["sets"]
    assert not {seed for claim in first for seed in claim["seeds"]} & {seed for claim in second for seed in claim["seeds"]}
    assert found["flipped"] == [one["id"] for one, two in zip(first, second, strict=True) if one["verdict"] != two["verdict"]]
    assert {claim["paper"] for claim in first + second} == {path.stem}


def test_a_row_by_hand():
    def claim(effect, low, high, verdict, seeds):
        known = {"id": "C1", "statement": "It helps", "unit": "points", "effect": effect, "ci_low": low, "ci_high": high}
        return {**known, "verdict": verdict, "seeds": seeds}

    sets = [[claim(2.5, 1.25, 3.75, "reproduced", [1, 2])], [claim(None, None, None, "void", [3, 4])]]
    lines = MAKE["table"]({"sets": sets, "flipped": ["C1"]}).splitlines()
    assert lines[0] == "| claim | statement | unit | seeds 1 to 2 | seeds 3 to 4 | verdict |"
    assert lines[2] == "| C1 | it helps | points | 2.5 [1.25, 3.75] | - | reproduced, void |"
    assert lines[4] == "The verdict differs between the sets for C1."


def test_sets_that_share_a_seed_are_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "claims.json").write_text('[{"paper": "x", "id": "C1", "seeds": [1], "verdict": "void"}]')
    with pytest.raises(SystemExit, match="both sets have the seeds"):
        MAKE["main"](["x", str(tmp_path / "one"), str(tmp_path / "two")])
