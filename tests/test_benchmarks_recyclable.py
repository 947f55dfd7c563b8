"""What is measured for recyclable is planned as it says, and its tables are those of the records."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs/records"


def _read(name):
    return [json.loads(line) for line in (RECORDS / name).read_text(encoding="utf-8").splitlines()]


def test_advice_is_planned_case_by_case(script, tmp_path, capsys):
    script("advise").main(tmp_path, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    # 6 old deltas; 18 cases with an advice, an untouched delta and 3 seeds of 3 tunings
    assert lines[0].startswith(f"{6 + 18 * (2 + 9)} steps, 0 of them finished")
    assert sum(" advise " in line for line in lines) == 18


def test_advice_is_judged_by_what_full_tuning_shows(script):
    case = {"new": "b", "task": "t", "delta": "LoRA", "advice_updates": 120}
    good = {"initialized": [0.9, 0.92], "distilled": [0.8, 0.8], "afresh": [0.85, 0.87], "untouched": [0.7]}
    found = [{**case, "advice": "initialize from it", "scores": good}, {**case, "advice": "reuse as it is", "scores": good}]
    assert script("advise").rows(found).splitlines() == [
        "| policy | as good as the best | mean regret, points | largest regret | updates |",
        "|---|---|---|---|---|",
        "| advise | 1 of 2 | 10.5 | 21.0 | 100 and 120 for the advice |",
        "| always reuse | 0 of 2 | 21.0 | 21.0 | 0 |",
        "| always initialize | 2 of 2 | 0.0 | 0.0 | 200 |",
        "| always distill | 0 of 2 | 11.0 | 11.0 | 200 |",
        "| always retune | 0 of 2 | 5.0 | 5.0 | 200 |",
        "",
        "| new base | task | delta | advice | untouched | initialized | distilled | afresh |",
        "|---|---|---|---|---|---|---|---|",
        "| b | t | LoRA | initialize from it | 70.0 | 91.0 ± 1.4 | 80.0 ± 0.0 | 86.0 ± 1.4 |",
        "| b | t | LoRA | reuse as it is | 70.0 | 91.0 ± 1.4 | 80.0 ± 0.0 | 86.0 ± 1.4 |",
    ]


def test_the_real_study_is_one_upgrade_and_seven_arms_of_twelve_cases(script, tmp_path, capsys):
    script("recyclable").main(tmp_path, tmp_path / "out", model="base", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{1 + 7 * 12} steps, 0 of them finished")
    assert sum(" combine " in line for line in lines) == 12


def test_the_real_table_by_hand(script):
    def record(arm, seed, value):
        return {"task": "t", "delta": "LoRA", "arm": arm, "seed": seed, "metric": "accuracy", "value": value}

    found = [record("afresh", 0, 0.5), record("afresh", 1, 0.7), record("initialized", 0, 0.6), record("initialized", 1, 0.8)]
    lines = script("recyclable").rows(found).splitlines()
    assert lines[2:] == [
        "| t | LoRA | afresh | accuracy | 0.600 | 0.141 |  | 2 |",
        "| t | LoRA | initialized | accuracy | 0.700 | 0.141 | +0.100 (0.000) | 2 |",
    ]


def test_the_pages_show_the_records(script):
    page = (ROOT / "docs/recyclable.md").read_text(encoding="utf-8")
    advice = _read("advise.jsonl")
    assert script("advise").rows(advice) in page
    assert script("recyclable").rows(_read("recyclable.jsonl")) in page
    assert script("advise").policies(advice) in (ROOT / "packages/recyclable/README.md").read_text(encoding="utf-8")
