"""Measurements kept once in a folder."""

from __future__ import annotations

import pytest

from deltatune.core.cli.results import Kept
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.run import read_records


def test_a_measurement_is_made_once_and_found_again(tmp_path, capsys):
    calls = []

    def work():
        calls.append(1)
        return {"answer": 42}, [{"kind": "number", "value": 1}]

    kept = Kept(tmp_path / "out", "option: 1\n", tag="mine", program="program")
    first = kept.once("measure", {"seed": 0}, work)
    assert (first["answer"], first["command"]) == (42, "program measure")
    assert kept.once("measure", {"seed": 0}, work)["answer"] == 42
    assert "finished already" in capsys.readouterr().err
    assert len(calls) == 1
    assert read_records(tmp_path / "out") == [{"kind": "number", "value": 1, "tag": "mine"}]
    assert read_json(tmp_path / "out/run.json")["status"] == "finished"
    with pytest.raises(DeltatuneError, match="holds another run"):
        kept.once("measure", {"seed": 1}, work)
    Kept(tmp_path / "out", "", overwrite=True).once("measure", {"seed": 1}, work)
    assert len(calls) == 2


def test_an_interrupted_measurement_begins_again(tmp_path):
    def fail():
        raise OSError(28, "full")

    kept = Kept(tmp_path / "out", "")
    with pytest.raises(OSError, match="full"):
        kept.once("measure", {}, fail)
    assert kept.once("measure", {}, lambda: ({"done": True}, []))["done"]
