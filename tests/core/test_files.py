"""Writing as a whole or not at all, and holding a folder against a second process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held, read_json, read_text, replacing, write_json, write_text
from deltatune.core.run import RunFolder, append_records, read_records


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def lock_of(folder, pid):
    (folder.parent / f".{folder.name}.lock").write_text(
        json.dumps({"pid": pid, "started": psutil.Process(pid).create_time()}), encoding="utf-8"
    )


def test_a_living_process_that_holds_a_folder_is_named(tmp_path):
    lock_of(tmp_path / "run", os.getppid())
    with pytest.raises(DeltatuneError, match=f"in use by process {os.getppid()}; wait for it"), held(tmp_path / "run"):
        pytest.fail("held twice")
    assert names(tmp_path) == [".run.lock"]


@pytest.mark.parametrize("left", ['{"pid": 4194304, "started": 0}', '{"pid": 1, "started": 0}', "damaged", '{"pid": "x"}', "[]"])
def test_a_lock_whose_process_is_gone_is_taken_over_and_removed(left, tmp_path):
    (tmp_path / ".run.lock").write_text(left, encoding="utf-8")
    with held(tmp_path / "run"):
        assert json.loads((tmp_path / ".run.lock").read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert names(tmp_path) == []


def test_a_lock_is_removed_after_an_error_too(tmp_path):
    with pytest.raises(KeyError), held(tmp_path / "run"):
        raise KeyError
    assert names(tmp_path) == []


def test_a_failure_leaves_the_old_file_and_no_scratch(tmp_path):
    def half_write():
        with replacing(tmp_path / "a.txt") as target:
            target.write_text("half", encoding="utf-8")
            raise RuntimeError

    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError):
        half_write()
    assert (names(tmp_path), read_text(tmp_path / "a.txt")) == (["a.txt"], "old")


def test_an_old_folder_comes_back_when_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    write_text(tmp_path / "run" / "a.txt", "old")
    rename = Path.replace

    def refuse(self, target):
        if self.name == "run" and Path(target) == tmp_path / "run" and self.parent != tmp_path and "previous" not in str(self):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(DeltatuneError, match="No space left on device; nothing was changed"), replacing(tmp_path / "run") as new:
        new.mkdir()
    assert (names(tmp_path), read_text(tmp_path / "run" / "a.txt")) == (["run"], "old")


def test_json_keeps_order_and_letters_beyond_ascii(tmp_path):
    write_json(tmp_path / "a.json", {"z": "é", "a": [1, 2]})
    assert list(read_json(tmp_path / "a.json")) == ["z", "a"]
    assert "é" in read_text(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff", "is not utf-8 at byte 0"), (b"{\n,}", "line 2: not JSON"), (None, "no such file")]
)
def test_a_bad_file_is_one_line(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DeltatuneError, match=message):
        read_json(tmp_path / "a.json")


def test_finishing_a_run_keeps_what_was_scored_on_the_way(tmp_path):
    folder = RunFolder(tmp_path / "run", "digest")
    assert folder.begin({}, "")
    append_records(tmp_path / "run" / "records.jsonl", [{"kind": "evaluation", "value": 1}, {"kind": "curve", "value": 2}])
    folder.finish({}, [{"kind": "result", "value": 3}])
    assert [record["value"] for record in read_records(tmp_path / "run")] == [3, 1]
