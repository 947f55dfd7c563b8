"""Writing as a whole or not at all, and holding a folder against a second process."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held, read_json, read_text, replacing, write_json, write_text
from deltatune.core.run import RunFolder, append_records, read_records


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def in_child(action):
    """Run `action` in a forked child that then ends without more ado; its process number."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return child


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_tensors_have_the_mode_that_the_umask_gives(mask, mode, tmp_path):
    private = tmp_path / "folder/before.txt"
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "folder") as target:
            (target / "inner").mkdir(parents=True)
            save_file({"a": torch.ones(2)}, target / "inner/delta.safetensors")
            (target / "before.txt").write_text("mine", encoding="utf-8")
            (target / "before.txt").chmod(0o400)
        with replacing(tmp_path / "alone.safetensors") as target:
            save_file({"a": torch.ones(2)}, target)
        write_text(tmp_path / "text", "as ever")
    finally:
        os.umask(before)
    for path in ("folder/inner/delta.safetensors", "alone.safetensors", "text"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode, path
    assert stat.S_IMODE(private.stat().st_mode) == 0o400  # what is no file of tensors keeps its own


def test_a_process_that_holds_a_folder_is_named(tmp_path):
    since = datetime.fromtimestamp(psutil.Process().create_time()).strftime("%Y-%m-%d %H:%M:%S")
    message = f"in use by process {os.getpid()}, started {since}; wait for it"
    with held(tmp_path / "run"):
        assert names(tmp_path) == [".run.lock"]
        assert list(read_json(tmp_path / ".run.lock")) == ["pid", "started"]  # no name of host or user
        with pytest.raises(DeltatuneError, match=message), held(tmp_path / "run"):
            pytest.fail("held twice")
    assert names(tmp_path) == []


@pytest.mark.parametrize("left", ['{"pid": 4194304, "started": 0}', f'{{"pid": {os.getppid()}, "started": 0}}', "damaged", "[]"])
def test_a_lock_whose_process_is_gone_is_taken_over_and_removed(left, tmp_path):
    (tmp_path / ".run.lock").write_text(left, encoding="utf-8")
    with held(tmp_path / "run"):
        assert read_json(tmp_path / ".run.lock")["pid"] == os.getpid()
    assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    ready, told = os.pipe()

    def hold():
        with held(tmp_path / "run"):
            os.write(told, b".")
            signal.pause()

    child = in_child(hold)
    os.read(ready, 1)
    with pytest.raises(DeltatuneError, match=f"in use by process {child}, started"), held(tmp_path / "run"):
        pytest.fail("held twice")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert names(tmp_path) == [".run.lock"]
    with held(tmp_path / "run"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("left", [None, '{"pid": 4194304, "started": 0}'])
def test_of_many_processes_one_takes_the_lock(left, tmp_path):
    """Each that gets it checks that no other has it: it makes a file that must not be there yet."""

    def strive():
        for _ in range(40):
            with suppress(DeltatuneError), held(tmp_path / "run"):
                try:
                    (tmp_path / "inside").touch(exist_ok=False)
                except FileExistsError:
                    (tmp_path / "two at once").touch()
                (tmp_path / "got in").touch()
                (tmp_path / "inside").unlink(missing_ok=True)

    if left is not None:
        (tmp_path / ".run.lock").write_text(left, encoding="utf-8")
    for child in [in_child(strive) for _ in range(6)]:
        os.waitpid(child, 0)
    assert names(tmp_path) == ["got in"]


def test_records_of_processes_at_one_time_are_all_kept(tmp_path):
    file = tmp_path / "records.jsonl"

    def append(who):
        for number in range(15):
            append_records(file, [{"who": who, "number": number}])

    for child in [in_child(partial(append, who)) for who in range(5)]:
        os.waitpid(child, 0)
    found = sorted((record["who"], record["number"]) for record in read_records(file))
    assert found == [(who, number) for who in range(5) for number in range(15)]
    assert names(tmp_path) == ["records.jsonl"]


def test_what_killed_writers_have_left_is_removed(tmp_path):
    folder = RunFolder(tmp_path / "run", "digest")
    (tmp_path / "run/.run.json.ab_c1234").mkdir(parents=True)  # killed before there was a run at all
    assert folder.begin({}, "")
    assert names(tmp_path / "run") == ["config.yaml", "run.json"]
    for left in ("run/snapshots/.12.abcdefgh", "run/.delta.00000000", "run/state/.state.pt.zzzzzzzz"):
        (tmp_path / left).mkdir(parents=True)
        (tmp_path / left / "half").touch()
    assert folder.begin({}, "")
    assert names(tmp_path / "run") == ["config.yaml", "run.json", "snapshots", "state"]
    assert names(tmp_path / "run/snapshots") == names(tmp_path / "run/state") == []
    (tmp_path / "run/.records.jsonl.abcdefgh").mkdir()
    folder.finish({}, [])
    assert names(tmp_path / "run") == ["config.yaml", "records.jsonl", "run.json", "snapshots"]
    (tmp_path / "run/state").mkdir()  # killed between the last two things that `finish` does
    assert not folder.begin({}, "")
    assert not (tmp_path / "run/state").exists()


def test_a_run_that_is_thrown_away_is_no_run_from_the_first_moment(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run", "digest")
    assert folder.begin({}, "")
    folder.finish({}, [])
    (tmp_path / "run/delta").mkdir()

    def killed(path, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.begin({}, "", overwrite=True)
    assert folder.finished() is None
    assert folder.begin({}, "")  # goes on without being told again
    assert names(tmp_path / "run") == ["config.yaml", "run.json"]


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
