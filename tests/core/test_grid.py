"""Grids of settings: the runs they consist of, carried out, resumed, kept and compared."""

from __future__ import annotations

import json
import operator
import os
import shlex
import time
from functools import partial

import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core import cli, pool
from deltatune.core.cli.parsing import parse
from deltatune.core.cli.tune import tune
from deltatune.core.cli.words import changed_options, words_of
from deltatune.core.delta import DeltaConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.grid import GridRun, Outcome, Spread, best_runs, expand, summarise
from deltatune.core.run import read_records


def test_the_first_option_varies_slowest_and_seeds_fastest():
    runs = expand({"train.optimizer.lr": [1e-4, 3e-5], "delta.rank": [4]}, seeds=[0, 13], seeded=["init_seed"])
    assert [run.name for run in runs] == [
        "lr-0.0001_rank-4_seed-0",
        "lr-0.0001_rank-4_seed-13",
        "lr-3e-05_rank-4_seed-0",
        "lr-3e-05_rank-4_seed-13",
    ]
    assert runs[1] == GridRun(
        "lr-0.0001_rank-4_seed-13", "lr-0.0001_rank-4", {"train.optimizer.lr": 1e-4, "delta.rank": 4, "init_seed": 13}, 13
    )


def test_several_mappings_follow_one_another():
    runs = expand([{"delta": ["LoRA"], "lr": [1e-3, 1e-4]}, {"delta": ["Prefix"], "lr": [0.01]}])
    assert [run.settings for run in runs] == [
        {"delta": "LoRA", "lr": 1e-3},
        {"delta": "LoRA", "lr": 1e-4},
        {"delta": "Prefix", "lr": 0.01},
    ]
    assert [run.name for run in runs] == ["delta-LoRA_lr-0.001", "delta-LoRA_lr-0.0001", "delta-Prefix_lr-0.01"]
    assert [run.name for run in expand({}, [5], ["init_seed"])] == ["seed-5"]


def test_names_are_file_names_and_differ():
    values = ["a/b", "a b", "ü" * 100, None, True, {"class_path": "LoRA", "init_args": {"rank": 2}}]
    names = [run.name for run in expand({"delta": values, "train.delta": [0]})]
    assert len(set(names)) == len(values)
    assert names[0] == "delta-a-b_train.delta-0"
    assert names[1].startswith("delta-a-b_train.delta-0_")
    assert names[3:5] == ["delta-null_train.delta-0", "delta-true_train.delta-0"]
    assert not [name for name in names if "/" in name or " " in name or len(name.encode()) > 120]


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text("ab.", min_size=1, max_size=4),
        st.lists(st.text(max_size=9) | st.integers() | st.floats(), min_size=1, max_size=3, unique_by=json.dumps),
        min_size=1,
        max_size=3,
    )
)
def test_every_combination_is_there_once(over):
    runs, count = expand(over, [0, 1], ["seed"]), 2
    for values in over.values():
        count *= len(values)
    assert len(runs) == len({run.name for run in runs}) == count
    assert len({repr(run.settings) for run in runs}) == count


@pytest.mark.parametrize(
    ("over", "seeds", "message"),
    [
        ({}, [], "a grid varies something"),
        ({"a": []}, [], "--over a has no values"),
        ({"a": "xy"}, [], r"--over a needs a list of values, got xy; write \[xy\]"),
        ({"a": [1, 2, 1]}, [], "--over a has the value 1 twice"),
        ([{"a": [1]}, {"a": [2, 1]}], [], "--over names the cell a-1 twice"),
        ({"a": [1]}, [3, 3], "--seeds has the value 3 twice"),
        ({"init_seed": [1]}, [3], "--over varies init_seed, which --seeds sets as well"),
    ],
)
def test_what_makes_no_grid_is_refused(over, seeds, message):
    with pytest.raises(DeltatuneError, match=message):
        expand(over, seeds, ["init_seed"])


def _outcome(cell, seed, dev, test=0.5, metric="accuracy", task="t"):
    run = GridRun(f"{cell}_seed-{seed}", cell, {}, seed)
    if dev == "failed":
        return Outcome(run, "failed", "why")
    scores = {"dev": {"value": dev, "metric": metric}, "test": {"value": test, "metric": metric}}
    return Outcome(run, "finished", facts={"scores": scores, "config": {"task": {"task": task}}})


def test_cells_are_summed_up_and_the_best_on_dev_is_marked():
    outcomes = [
        _outcome("a", 0, 0.5, 0.9),
        _outcome("a", 1, 0.7, 0.7),
        _outcome("b", 0, 0.61, 0.1),
        _outcome("b", 1, 0.61, 0.3),
        _outcome("c", 0, 0.99, 0.1),
        _outcome("c", 1, "failed"),  # compared with the others only when all its runs are there
        _outcome("d", 0, 0.2, 0.1, task="u"),
        _outcome("e", 0, None, 0.1),
    ]
    a, b, c, d, e = summarise(outcomes)
    assert a.dev == Spread(pytest.approx(0.6), pytest.approx(0.02**0.5), 2)
    assert b.test == Spread(pytest.approx(0.2), pytest.approx(0.02**0.5), 2)
    assert c.dev == Spread(0.99, None, 1)
    assert (c.finished, c.runs, e.dev) == (1, 2, None)
    assert [cell.best for cell in (a, b, c, d, e)] == [False, True, False, True, False]
    assert best_runs(outcomes) == {"c_seed-0", "d_seed-0"}


def test_options_become_words_and_back():
    text = "--model m --task glue/rte --delta LoRA --delta.rank 4 --delta.targets [query] --train.optimizer.lr 1e-5 --tag=-1"
    text += " --train.snapshots [3,5] --out_dir x --also [{class_path:\\ BitFit}] --overwrite --max_test 4"
    first = parse(tune, "x", shlex.split(text), [DeltaConfig])
    words = words_of(changed_options(tune, yaml.safe_load(first["config_yaml"])))
    assert parse(tune, "x", words, [DeltaConfig]) == first
    assert words[words.index("--delta") :][:4] == ["--delta", "LoRA", "--delta.rank", "4"]
    assert "--delta.alpha" not in words


@pytest.fixture
def grid(tune_reviews, tmp_path, command):
    """`grid(*words)`: run a small grid in `OUT`, which must succeed."""
    return partial(command, "grid", *tune_reviews[1:], "--out_dir", tmp_path / "OUT")


OVER = ("--delta", "LoRA", "--over", "{delta.rank: [2, 4]}", "--seeds", "2")


def test_a_grid_leaves_runs_and_says_what_they_say_together(grid, command, tmp_path):
    out = tmp_path / "OUT"
    commands = grid(*OVER, "--print").splitlines()
    assert not out.exists()
    assert len(commands) == 4
    command(*shlex.split(commands[2])[1:])  # as another machine would
    before = (out / "rank-4_seed-0/run.json").stat().st_mtime_ns
    printed = grid(*OVER)
    assert "4 runs, 1 of them finished" in printed
    assert (out / "rank-4_seed-0/run.json").stat().st_mtime_ns == before
    about, records = read_json(out / "grid.json"), read_records(out)
    assert [run["name"] for run in about["runs"]] == [f"rank-{rank}_seed-{seed}" for rank in (2, 4) for seed in (0, 1)]
    assert [run["command"] for run in about["runs"]] == commands
    assert {run["status"] for run in about["runs"]} == {"finished"}
    assert [cell["best"] for cell in about["cells"]].count(True) == 1
    assert len(records) == 8
    for run in about["runs"]:
        own = read_json(out / run["name"] / "run.json")
        assert own["config"]["init_seed"] == own["config"]["train"]["data_seed"] == run["seed"]
        assert (run["dev"], run["test"]) == tuple(own["scores"][split]["value"] for split in ("dev", "test"))
        assert [r["value"] for r in records if r["run"] == run["name"] and r["split"] == "test"] == [run["test"]]
        assert (out / run["name"] / "delta").is_dir()
    assert "4 runs, 4 of them finished" in grid("--config", out / "config.yaml", "--keep", "best")
    left = [path.parent.name for path in out.glob("*/delta")]
    best = max(about["runs"], key=lambda run: run["dev"])
    assert left == [best["name"]]


def test_the_dry_run_counts_measures_and_writes_nothing(grid, tmp_path):
    printed = grid(*OVER, "--dry_run", "--keep", "none")
    assert "4 runs, 4 to do: about" in printed
    assert "0 gigabytes stay (--keep none)" in printed
    assert [line.split("│")[1:5] for line in printed.splitlines() if "rank-" in line] == [
        [" rank-2_seed-0 ", " 2    ", " 2     ", " 4       "],
        [" rank-4_seed-0 ", " 2    ", " 2     ", " 4       "],
    ]
    assert not (tmp_path / "OUT").exists()


def test_a_run_that_fails_is_reported_and_the_others_go_on(grid, tune_reviews, tmp_path, capsys):
    words = [
        *tune_reviews[1:],
        "--delta",
        "LoRA",
        "--over",
        "{lr: [1e30, 1e-3]}",
        "--keep",
        "none",
        "--out_dir",
        str(tmp_path / "OUT"),
    ]
    assert cli.main(["grid", *words]) == 2
    printed = capsys.readouterr().out
    assert "failed: lr-1e+30: " in printed
    assert "lower optimizer.lr" in printed
    bad, good = read_json(tmp_path / "OUT/grid.json")["runs"]
    assert (bad["status"], good["status"]) == ("failed", "finished")
    assert sorted(path.name for path in (tmp_path / "OUT/lr-0.001").iterdir()) == ["config.yaml", "records.jsonl", "run.json"]


def test_full_models_are_not_kept_by_default_and_last_means_the_last_update(grid, tmp_path):
    printed = grid("--over", "{delta: [Full]}", "--seeds", "2", "--print")
    assert "--train.select last" not in printed
    grid("--over", "{delta: [Full]}", "--seeds", "2")
    assert read_json(tmp_path / "OUT/grid.json")["keep"] == "best"
    assert len(list((tmp_path / "OUT").glob("*/delta"))) == 1
    assert all("--train.select last" in line for line in grid(*OVER, "--print", "--keep", "last").splitlines())


def test_weights_that_the_grid_did_not_make_stay_unless_asked(grid, command, tmp_path):
    words = ("--over", "{delta: [Full]}", "--seeds", "2")
    for line in grid(*words, "--print").splitlines():
        command(*shlex.split(line)[1:])
    grid(*words)
    assert len(list((tmp_path / "OUT").glob("*/delta"))) == 2
    grid(*words, "--keep", "none")
    assert not list((tmp_path / "OUT").glob("*/delta"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "{delta.rnak: [1]}"], "unknown option delta.rnak; did you mean delta.rank?"),
        (["--over", "{delta.rank: [0]}"], "rank"),
        (["--over", "{out_dir: [a]}"], "--over cannot vary out_dir"),
        (["--over", "{train.select: [best]}", "--keep", "last"], "--keep last sets train.select"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--seeds", "2", "--workers", "1000"], "--workers 1000: "),
        ([], "a grid varies something"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line_and_writes_nothing(tune_reviews, words, message, refused, tmp_path):
    out = tmp_path / "OUT"
    assert message in refused("grid", *tune_reviews[1:], "--delta", "LoRA", *words, "--out_dir", out)
    assert not out.exists()


def test_a_folder_that_holds_something_else_is_left_alone(tune_reviews, refused, tmp_path):
    (tmp_path / "thesis.txt").write_text("x", encoding="utf-8")
    said = refused("grid", *tune_reviews[1:], *OVER, "--out_dir", tmp_path)
    assert "holds thesis.txt and no grid" in said
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["thesis.txt"]


def test_missing_options_are_named_as_those_of_tune(refused, tmp_path):
    assert "missing --model, --task" in refused("grid", "--delta", "LoRA", "--seeds", "2", "--out_dir", tmp_path / "OUT")


@pytest.mark.usefixtures("two_cores")
def test_workers_share_the_cores_and_give_the_same_runs(grid, tmp_path):
    words = ("--delta", "LoRA", "--seeds", "1")  # one run is one process, whose imports take most of the time
    grid(*words, "--workers", "2")
    shared = [run["dev"] for run in read_json(tmp_path / "OUT/grid.json")["runs"]]
    assert {read_json(path)["threads"] for path in (tmp_path / "OUT").glob("*/run.json")} == {1}
    (tmp_path / "OUT").rename(tmp_path / "shared")
    grid(*words)
    assert [run["dev"] for run in read_json(tmp_path / "OUT/grid.json")["runs"]] == shared


@pytest.mark.usefixtures("two_cores")
def test_a_process_that_dies_takes_its_own_job_with_it_alone(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = []
    jobs = [partial(os._exit, 1), partial(os.getenv, "OMP_NUM_THREADS")]
    pool.run_jobs(operator.call, jobs, 1, lambda job, result: found.append(result))
    assert found == [None, "2"]
    with pytest.raises(TypeError):
        pool.run_jobs(operator.call, [partial(int, [])], 1, lambda job, result: None)


@pytest.mark.usefixtures("two_cores")
def test_an_interruption_ends_the_jobs_under_way():
    before, began = set(psutil.Process().children()), time.monotonic()

    def interrupted(job, result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run_jobs(operator.call, [partial(time.sleep, 600), partial(int, 3), partial(time.sleep, 600)], 2, interrupted)
    assert time.monotonic() - began < 300
    left = [child for child in set(psutil.Process().children()) - before if "spawn_main" in " ".join(child.cmdline())]
    assert not left
