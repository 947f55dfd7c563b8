"""The benchmarks of modeconn plan what they say, and make the table from their records."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from deltatune.core.data import load_task

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """`script(name)`: the names of a benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: runpy.run_path(str(BENCHMARKS / f"{name}.py"))


def test_the_dry_run_lists_every_tuning_and_every_line(script, tmp_path, capsys):
    script("modeconn")["main"](Path("data"), tmp_path / "out", model="folder", pairs=2, dry_run=True)
    first, *lines = capsys.readouterr().out.splitlines()
    # Of each of three subjects 4 runs for the seeds and 4 halves; 2 lines for each kind and subject, 4 more between LoRAs of
    # other seeds, and 2 between tasks.
    assert first.startswith("42 steps, 0 of them finished, then at most 12 curves; about ")
    commands = [line.split()[1] for line in lines]
    assert (commands.count("tune"), commands.count("walk"), len(lines)) == (24, 18, 42)
    assert sum("--half first" in line for line in lines) == sum("--half second" in line for line in lines) == 6
    folders = [line.split()[-1] for line in lines]
    assert len(set(folders)) == 42
    for line in lines[24:]:
        words = line.split()
        assert {words[words.index("--left") + 1], words[words.index("--right") + 1]} <= set(folders[:24])
    assert not (tmp_path / "out").exists()


def record(pair, barrier, drop, ends, **changes):
    return {
        "kind": "seeds",
        "pair": pair,
        "delta": "Full",
        "shape": "line",
        "task": "rte",
        "metric": "accuracy",
        "n": 277,
        "good": True,
        "barrier": barrier,
        "drop": drop,
        "connected": drop <= 0.02,
        "ends": ends,
        "x": [0.0, 1.0],
        "loss": [0.6, 0.7],
        "value": ends,
    } | changes


def test_the_table_is_that_of_the_records(script, tmp_path):
    found = [
        record("seeds-rte-0", 0.02, 0.01, [0.5, 0.6]),
        record("seeds-rte-1", 0.04, 0.05, [0.6, 0.6], good=False),
        record("seeds-rte-0", 0.001, 0.0, [0.5, 0.6], shape="curve"),
    ]
    names = script("modeconn")
    lines = names["rows"](found).splitlines()
    assert lines[2] == "| seeds | line | rte | Full | 55.0 / 60.0 | 0.030 ± 0.014 | 3.0 ± 2.8 | 1 of 2 | 1 |"
    assert lines[3] == "| seeds | curve | rte | Full | 50.0 / 60.0 | 0.001 | 0.0 | 1 of 1 | 0 |"
    assert lines[7:] == [
        "| seeds-rte-0 | line | rte | 50.0 | 60.0 | 0.020 | 1.0 | 277 |  |",
        "| seeds-rte-0 | curve | rte | 50.0 | 60.0 | 0.001 | 0.0 | 277 |  |",
        "| seeds-rte-1 | line | rte | 60.0 | 60.0 | 0.040 | 5.0 | 277 | yes |",
    ]
    [figure] = names["draw"](found, tmp_path)
    assert (figure.name, figure.stat().st_size > 1000) == ("modeconn-seeds.png", True)
    # The class is counted, not the text of its label.
    reviews = load_task(str(BENCHMARKS.parent / "examples/reviews/task.yaml"), BENCHMARKS.parent / "examples/reviews")
    labels = [example.label for example in reviews.dev[:9]]
    assert names["most_frequent"](reviews, 9) == max(map(labels.count, labels)) / 9
    # Between tasks an end answers for its own task alone.
    pair = names["Pair"]("tasks", 0, ("sst-2", "seed-0"), ("rte", "seed-0"))
    assert [names["ends_of"](pair, subject, ["left", "right"]) for subject in ("sst-2", "rte")] == [["left"], ["right"]]
    assert [names["good"]({"value": value, "stderr": 0.02}, 0.5) for value in (0.53, 0.55)] == [False, True]


def test_the_speed_of_a_point_is_compared_with_the_published_way(script, capsys):
    names = script("modeconn_speed")
    names["main"](Path("data"), model="folder", dry_run=True)
    first, *cases = capsys.readouterr().out.splitlines()
    assert first.startswith("14 cases, 3 rounds; about ")
    assert len(cases) == 14
    assert sum("together" in case for case in cases) == 2
    common = {"delta": "LoRA", "examples": 8, "points": 6, "threads": 1, "before": 500.0}
    records = [
        {**common, "way": "published", "seconds": [3.0, 2.0, 1.0], "peak": 1000.4},
        {**common, "way": "deltatune", "seconds": [0.25, 0.1, 0.9], "peak": 800.0},
    ]
    assert names["rows"](records).splitlines()[2:] == [
        "| LoRA | 8 | published | 2.000 | 1.0 | 1000 | 500 |",
        "| LoRA | 8 | deltatune | 0.250 | 8.0 | 800 | 300 |",
    ]
