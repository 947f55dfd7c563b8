"""Runs that are killed at random moments, that of saving included; run as a program, this file is the parent of those killed.

A fresh program, since only a process without threads of its own can be forked safely.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deltatune.core.backbone import BackboneConfig
from deltatune.core.delta import LoRA
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held, read_json
from deltatune.core.optim import OptimizerConfig
from deltatune.core.run import read_records
from deltatune.core.train_config import TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.tuning import tune_to

KILLS = 24
SAVING = ("replace", "mkdir", "rmdir", "unlink", "open")  # what writing a file as a whole goes through, in `os`


def configuration(model, task):
    train = TrainConfig(
        OptimizerConfig(lr=0.01), steps=6, batch_size=4, eval_every=3, save_every=1, snapshots=2, log_every=100, select="last"
    )
    choice = TaskChoice(str(task), max_train=12, max_dev=2, max_test=2)
    return TuneConfig(BackboneConfig(str(model), device="cpu"), choice, (LoRA(rank=2, dropout=0.3),), train)


def tune(config, folder):
    return tune_to(config, folder, {"command": "test"}, "")


def fork(action):
    """Run `action` in a forked child, whose exit code is 0 if it returns."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except DeltatuneError as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            code = 2
        finally:
            os._exit(code)
    return child


def ended(child):
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at_call(number, after):
    """Have this process killed at the `number`th call of one of `SAVING`, before or after it is done."""
    calls = 0

    def counting(original):
        def call(*args, **more):
            nonlocal calls
            calls += 1
            if calls == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **more)
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in SAVING:
        setattr(os, name, counting(getattr(os, name)))
    return lambda: calls


def contents(folder):
    """Every file that a run leaves, by name; tensors with their bytes."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() if name.startswith(("delta/", "snapshots/")) else b"" for name, path in files.items()}


def records(folder):
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in read_records(folder)]


def kill_and_go_on(config, root):
    """Kill runs until there are `KILLS` kills, each gone on with to its end; what was seen, as JSON."""
    chance, whole = random.Random(0), root / "whole"
    started = time.perf_counter()
    assert ended(fork(lambda: tune(config, whole))) == 0
    lasted = time.perf_counter() - started
    expected, measured = contents(whole), records(whole)
    kills, by_delay, number = 0, 0, 0
    while kills < KILLS:
        folder = root / f"run{number}"
        number += 1
        for _ in range(5):  # the same run may be killed again on its way
            if chance.random() < 0.35:
                child, wait = fork(lambda folder=folder: tune(config, folder)), chance.uniform(0.1, 0.9) * lasted
                time.sleep(wait)
                os.kill(child, signal.SIGKILL)
                found = ended(child)
                by_delay += found == -signal.SIGKILL
            else:
                at, after = chance.randint(1, 150), chance.random() < 0.5
                found = ended(fork(lambda folder=folder, at=at, after=after: (killed_at_call(at, after), tune(config, folder))))
            kills += found == -signal.SIGKILL
            if found == 0 or chance.random() < 0.25:
                break
        assert ended(fork(lambda folder=folder: tune(config, folder))) == 0
        assert contents(folder) == expected, folder
        assert [path for path in folder.rglob("*") if path.is_dir() and path.name.startswith((".", "state"))] == []
        assert records(folder) == measured, folder
        assert read_json(folder / "run.json")["status"] == "finished"
        shutil.rmtree(folder)
    left = sorted(path.name for path in root.iterdir())
    return {"kills": kills, "by_delay": by_delay, "runs": number, "left": left, "seconds": time.perf_counter() - started}


def limited(config, root, size):
    """One run whose files may have `size` bytes, and the same gone on with without a limit."""

    def tune_in_little_space():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        tune(config, root / "full")

    reading, writing = os.pipe()
    error = os.dup(2)
    os.dup2(writing, 2)
    child = fork(tune_in_little_space)
    os.dup2(error, 2)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        said = stream.read()
    code = ended(child)
    left = sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))
    ends = [ended(fork(lambda folder=folder: tune(config, root / folder))) for folder in ("full", "whole")]
    same = contents(root / "full") == contents(root / "whole")
    for folder in ("full", "whole"):
        shutil.rmtree(root / folder)
    return {"code": code, "said": said, "left": left, "again": max(ends), "same": same}


@pytest.fixture
def program(reviews, tmp_path):
    """`program(what)`: this file run as a program; what it found."""

    def run(what):
        words = [sys.executable, __file__, what, str(reviews.with_name("model")), str(reviews), str(tmp_path)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=600)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(program):
    found = program("kill")
    assert found["kills"] >= KILLS
    assert 0 < found["by_delay"] < found["kills"]
    assert found["left"] == ["whole"]  # no lock of a process that is gone either


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(program):
    named = []
    for found in program("full"):
        assert found["code"] == 2, found
        *before, line = found["said"].splitlines()
        assert "free some space" in line
        assert [text for text in before if not text.startswith("train ")] == []
        named.append(line.partition("cannot write ")[2].partition(":")[0].rpartition("/")[2])
        assert not [name for name in found["left"] if "/." in name or name.startswith(".")]
        assert not any(name.startswith(("full/delta", "full/snapshots/")) for name in found["left"])
        assert (found["again"], found["same"]) == (0, True)
    assert named == ["run.json", "state.pt", "2", "delta"]


def test_a_folder_below_a_file_is_one_line_and_nothing_is_written(tune_reviews, refused, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    line = refused(*tune_reviews, "--delta", "LoRA", "--out_dir", tmp_path / "file" / "run")
    assert f"cannot write {tmp_path / 'file' / 'run'}: " in line
    assert line.endswith("choose another --out_dir\n")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_use_is_refused_and_left_alone(tune_reviews, reviews, command, refused, tmp_path):
    lora = [*tune_reviews, "--train.steps", "1", "--delta", "LoRA"]
    command(*lora, "--out_dir", tmp_path / "run")
    command("export", "--run", tmp_path / "run", "--out_dir", tmp_path / "adapter")
    taking = ["import", "--adapter", tmp_path / "adapter", "--model", reviews.with_name("model")]
    with held(tmp_path / "new"):
        for words in (lora, taking):
            assert f"{tmp_path / 'new'} is in use by process {os.getpid()}, started 2" in refused(
                *words, "--out_dir", tmp_path / "new"
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "run"]


def main(what, model, task, root):
    os.environ["HF_HUB_OFFLINE"] = "1"
    config = configuration(model, task)
    import torch

    torch.set_num_threads(1)
    tune(replace(config, init_seed=7), root / "warm")  # everything that is imported late
    shutil.rmtree(root / "warm")
    if what == "kill":
        return kill_and_go_on(config, root)
    sparing = {"save_every": None, "snapshots": None}
    plans = [({}, 20), ({}, 9000), ({"save_every": None}, 9000), (sparing, 9000)]
    return [limited(replace(config, train=replace(config.train, **changed)), root, size) for changed, size in plans]


if __name__ == "__main__":
    found = main(sys.argv[1], *map(Path, sys.argv[2:]))
    sys.stdout.write(json.dumps(found))
