"""The scripts that measure the package on ensembling: what they plan, and the tables they make of records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_real_targets_are_tuned_from_every_start(script, tmp_path, capsys):
    module = script("ensemble")
    every = [*module.TARGETS, "glue-rte", "mpqa"]
    (tmp_path / "manifest.json").write_text(json.dumps({name: {"labels": ["a", "b"]} for name in every}), encoding="utf-8")
    module.main(tmp_path, tmp_path / "out", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    # The sources; 6 targets x 3 samples are weighed, have 5 mixtures and 6 starts; of each first sample a suggestion, tuned from.
    assert lines[0].startswith("229 steps, 0 of them finished; about ")
    words = [line.split()[1] for line in lines[1:]]
    assert {word: words.count(word) for word in words} == {"tune-all": 1, "weights": 18, "start": 90, "tune": 114, "suggest": 6}
    assert sum(" --start " in line for line in lines) == 96
    assert all(str(tmp_path / "out/sources") in line for line in lines if line.split()[1] in ("weights", "suggest"))
    assert not (tmp_path / "out").exists()


def test_a_step_is_left_until_all_its_runs_have_finished(script, tmp_path):
    left_of = script("ensemble_steps").left_of
    todo = [
        ["tune-all", "--tasks", "[x/one.yaml, two]", "--out_dir", tmp_path / "sources"],
        ["tune", "--out_dir", tmp_path / "run"],
    ]
    for name, status in (("sources/one", "finished"), ("run", "running")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    assert left_of(todo) == todo
    (tmp_path / "sources/two").mkdir()
    for name in ("sources/two", "run"):
        (tmp_path / name / "run.json").write_text('{"status": "finished"}', encoding="utf-8")
    assert left_of(todo) == []


def test_a_failed_step_ends_with_what_it_said(script, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"no such folder(?s:.)*stopped: that command failed"):
        script("ensemble_steps").run_stage(
            "x", [["weights", "--sources", "nowhere", "--tasks", "[a]", "--out_dir", tmp_path / "o"]], 1
        )
    assert "deltatune-ensemble weights --sources nowhere" in capsys.readouterr().out


def test_the_real_table_compares_with_the_random_start(script):
    module = script("ensemble")
    points = {
        "random": (0.5, 0.6),
        "uniform": (0.6, 0.62),
        "single": (0.5, 0.7),
        "loss": (0.7, 0.7),
        "grand": (0.4, 0.6),
        "learned": (0.5, 0.6),
    }
    found = [
        {"kind": "arm", "target": "t", "sample": sample, "arm": arm, "value": values[sample - 1], "sources": 1.0 + sample}
        for arm, values in points.items() for sample in (1, 2)
    ]  # fmt: skip
    found.append({"kind": "shared", "target": "t", "source": "s", "share": 0.25})
    said = {"chosen": "loss", "heaviest": "s", "gain": 0.05, "low": -0.01, "high": 0.11, "sure": False, "value": 0.61}
    found.append({"kind": "suggest", "target": "t", "sample": 1, **said})
    lines = module.rows(found).splitlines()
    assert lines[2] == "| t | random | 55.0 | 7.1 |  |  |  |"
    # Gains of 10 and 2 points: mean 6, standard deviation 8 / sqrt(2).
    assert lines[3] == "| t | uniform | 61.0 | 1.4 | +6.0 (5.7) | 2 of 2 | 2.5 |"
    assert lines[6] == "| t | grand | 50.0 | 14.1 | -5.0 (7.1) | 0 of 2 | 2.5 |"
    assert lines[9] == "| mean of 1 | uniform | 61.0 | 1.4 | +6.0 (5.7) | 2 of 2 | 2.5 |"
    assert "25.0% of the test texts of t are also training texts of s." in lines
    assert lines[-2:] == [
        "| t | loss | s | +0.050 | -0.010 to +0.110 | no | 61.0 | 50.0 | 60.0 | 50.0 |",
        "| mean |  |  |  |  |  | 61.0 | 50.0 | 60.0 | 50.0 |",
    ]


def test_suggestions_are_made_for_twelve_cases(script, tmp_path, capsys):
    module = script("ensemble_suggest")
    module.main(tmp_path / "out", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("144 steps, 0 of them finished; about ")
    words = [line.split()[1] for line in lines[1:]]
    assert {word: words.count(word) for word in words} == {"suggest": 12, "weights": 12, "start": 24, "tune": 96}
    module.copy_sources(tmp_path)
    assert len(list((tmp_path / "sources").iterdir())) == 24
    assert (tmp_path / "sources/topic-3/adapter_model.safetensors").is_file()


def test_suggestions_are_judged_by_what_tuning_showed(script):
    def case(target, suggested, uniform, single, random, chosen="loss"):
        scores = {"suggested": [suggested], "uniform": [uniform], "single": [single], "random": [random, random + 0.02]}
        kept = {"chosen": chosen, "sure": False, "sources": 2.0, "gain": 0.1, "seconds": {"suggested": 30.0, "single": 4.0}}
        return {"target": target, "scores": scores, **kept}

    lines = script("ensemble_suggest").rows([case("a", 0.8, 0.7, 0.805, 0.5), case("b", 0.6, 0.9, 0.5, 0.5)]).splitlines()
    # Half a point is as good as the best; 30 points are not.
    assert lines[2] == "| suggest | 1 of 2 | 15.2 | 30.0 | 30 | 70.0 |"
    assert lines[3] == "| always the average | 1 of 2 | 5.2 | 10.5 | 0 | 80.0 |"
    assert lines[4] == "| always the best single source | 1 of 2 | 20.0 | 40.0 | 4 | 65.2 |"
    assert lines[-1] == "| b | loss | 2.0 | no | 60.0 | 90.0 | 50.0 | 51.0 ± 1.4 |"


def test_speed_is_shown_as_times_the_first_way(script):
    found = [
        {"section": "scoring", "what": "20 sources", "way": "shared", "seconds": [2.0, 1.0, 3.0]},
        {"section": "scoring", "what": "20 sources", "way": "loaded", "seconds": [5.0, 9.0, 7.0]},
        {"section": "models", "what": "10 models", "way": "one", "seconds": [1.0], "megabytes": [100.0]},
        {"section": "models", "what": "10 models", "way": "all", "seconds": [2.0], "megabytes": [950.0]},
    ]
    assert script("ensemble_speed").rows(found).splitlines()[2:] == [
        "| scoring: 20 sources | shared | 2.00 | 1.0 |  |  |",
        "| scoring: 20 sources | loaded | 7.00 | 3.5 |  |  |",
        "| models: 10 models | one | 1.00 | 1.0 | 100 | 1.0 |",
        "| models: 10 models | all | 2.00 | 2.0 | 950 | 9.5 |",
    ]


def _read(name):
    return [json.loads(line) for line in (ROOT / "docs/records" / name).read_text(encoding="utf-8").splitlines()]


def test_the_pages_show_the_records(script):
    page, readme = ((ROOT / place).read_text(encoding="utf-8") for place in ("docs/ensemble.md", "packages/ensemble/README.md"))
    table = script("ensemble").rows(_read("ensemble.jsonl"))
    assert table in page
    lines = table.splitlines()
    assert "\n".join([*lines[:2], *(line for line in lines if line.startswith("| mean of "))]) in readme


def test_the_speed_page_shows_the_records(script):
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert script("ensemble_speed").rows(_read("ensemble_speed.jsonl")) in page


def test_the_scored_suggestions_are_those_of_the_records(script):
    page = (ROOT / "docs/ensemble.md").read_text(encoding="utf-8")
    assert script("ensemble_suggest").rows(_read("ensemble_suggest.jsonl")) in page
    policies = script("ensemble_suggest").rows(_read("ensemble_suggest.jsonl")).partition("\n\n")[0]
    assert policies in (ROOT / "packages/ensemble/README.md").read_text(encoding="utf-8")
