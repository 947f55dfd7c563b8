"""The pages of measurements show what the records say, as the scripts' own functions tell it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    "combos": "combos",
    "combos_suggest": "combos",
    "combos_grid": "performance",
    "modeconn": "modeconn",
    "modeconn_speed": "performance",
    "subspace": "subspace",
    "subspace_speed": "performance",
}


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_page_shows_its_records(monkeypatch, name, page):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    lines = (ROOT / f"docs/records/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = importlib.import_module(name).rows([json.loads(line) for line in lines])
    assert rows in (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
