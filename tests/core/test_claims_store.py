"""Results kept by their settings, and what is found without running anything."""

from __future__ import annotations

import os

import pytest

from deltatune.core.claims import Store
from deltatune.core.claims.installed import load_claims, sources
from deltatune.core.cli import main as deltatune
from deltatune.core.errors import DeltatuneError
from deltatune.core.pool import cores


def test_the_store_gives_back_what_json_holds_and_keeps_nothing_of_a_failure(tmp_path):
    store = Store(tmp_path / "store")
    assert store.get({"a": 1}, lambda: (1, 2)) == [1, 2]
    assert store.get({"a": 1}, lambda: pytest.fail("made twice")) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        store.get({"a": 2}, lambda: 1 / 0)
    assert store.peek({"a": 2}) is None
    folder = store.folder({"a": 3}, lambda path: (path / "x").write_text("y", encoding="utf-8"))
    assert (folder / "x").read_text(encoding="utf-8") == "y"
    with pytest.raises(ZeroDivisionError):
        store.folder({"a": 4}, lambda path: 1 / 0)
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    store = Store(tmp_path / "store")
    (tmp_path / "store").mkdir()
    name = store.digest({"a": 1})
    (tmp_path / "store" / f"{name}.json.lock").write_text('{"pid": 999999999, "started": 0.0}', encoding="utf-8")
    assert store.get({"a": 1}, lambda: 5) == 5


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DeltatuneError, match="choose another --out_dir"):
        Store(tmp_path / "file" / "store").get({}, lambda: 1)


def test_cores_are_those_given():
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_the_core_and_the_installed_papers_are_found():
    found = sources()
    assert next(iter(found)) == "core"
    claims = load_claims("core", found["core"])
    assert [claim.id for claim in claims] == ["C1", "C2", "C3"]
    assert all(claim.tier == "headline" for claim in claims)
    assert load_claims("nobody", "deltatune.nobody.claims") == ()


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"id": "C1"}]', "[", "[]x"])
def test_claims_that_were_tampered_with_are_refused_in_one_line(tmp_path, capsys, text):
    (tmp_path / "claims.json").write_text(text, encoding="utf-8")
    assert deltatune(["report", "--run", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()
