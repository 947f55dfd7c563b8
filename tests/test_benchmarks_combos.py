"""The scripts that measure the package on combinations: what they plan, and the tables they make of records."""

from __future__ import annotations

import importlib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_real_tasks_are_every_combination_in_every_way(script, tmp_path, capsys):
    script("combos").main(tmp_path, tmp_path / "out", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    # 7 combinations x 5 seeds for the head of 4 tasks, and for the template of 3 one untuned run more each
    assert lines[0].startswith("248 runs in 7 grids, 0 of them finished; about ")
    assert sum(line.startswith("deltatune pretrain") for line in lines) == 1
    grids = [line for line in lines if line.startswith("deltatune-combos grid")]
    assert len(grids) == 7
    assert sum("--form head" in line for line in grids) == 4
    assert not (tmp_path / "out").exists()


def test_all_real_tasks_are_those_with_a_test_file(script, tmp_path, capsys):
    for name in ("SST-2", "MRPC"):
        (tmp_path / "k-shot" / name / "16-100").mkdir(parents=True)
        (tmp_path / "k-shot" / name / "16-100/test.tsv").touch()
    script("combos").main(tmp_path, tmp_path / "out", ways=("head",), full=True, dry_run=True)
    said = capsys.readouterr().out
    assert "70 runs in 2 grids" in said
    assert "pretrain" not in said


def run(way, methods, seed, test, train=1.0):
    about = {"metric": "accuracy", "n": 872, "constant": 0.5, "trained": 1, "update_ms": 1.0, "base": ""}
    return {"kind": "run", "task": "trec", "way": way, "methods": methods, "seed": seed, "dev": 0.5, "test": test,
            "train": train, **about}  # fmt: skip


def test_the_table_of_real_tasks(script):
    found = [run("manual", "none", 13, 0.4), run("head", "bias", 13, 0.6), run("head", "bias", 21, 0.8)]
    found += [run("manual", "bias", seed, 0.5, 0.75) for seed in (13, 21)]
    found += [{"kind": "head", "updates": 300, "first_loss": 10.5, "last_loss": 4.25}]
    assert script("combos").rows(found) == (
        "| task | template | none | bias |\n|---|---|---|---|\n"
        "| trec | head |  | **70.0 ± 10.0** |\n"
        "| trec | manual | 40.0 ± 0.0 | **50.0 ± 0.0** |\n\n"
        "Training minus test score:\n\n"
        "| task | template | none | bias |\n|---|---|---|---|\n"
        "| trec | head |  | 30.0 ± 10.0 |\n"
        "| trec | manual | 60.0 ± 0.0 | 25.0 ± 0.0 |\n\n"
        "| task | metric | test examples | always the most frequent answer | seeds |\n|---|---|---|---|---|\n"
        "| trec | accuracy | 872 | 50.0 | 2 |\n\n"
        "Loss of the head for masked words, over 300 updates: 10.50 to 4.25.\n"
    )


def test_the_advice_is_judged_on_twelve_cases(script, tmp_path, capsys):
    script("combos_suggest").main(tmp_path / "out", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    # 12 tasks x (the advice, the untuned model, 7 combinations x 3 seeds)
    assert lines[0].startswith("276 steps, 0 of them finished; about ")
    assert sum(line.startswith("deltatune-combos suggest") for line in lines) == 12
    assert sum("--methods none" in line for line in lines) == 12
    assert len(set(lines)) == 277


def case(chosen, sure, **better):
    module = importlib.import_module("combos_suggest")
    scores = {methods: [0.5] if methods == "none" else [0.5, 0.7] for methods in module.SIMULTANEOUS}
    scores |= {methods.replace("_", "+"): values for methods, values in better.items()}
    own = {"updates": 100, "advice_updates": 2800, "advice_seconds": 30.0, "held_out": {}}
    return {"task": "aspect-0", "chosen": chosen, "sure": sure, **own, "scores": scores}


def test_the_table_of_advice(script):
    rows = script("combos_suggest").rows
    # Means in points: 60 but for what is named. Case 1: bias+adapter 80. Case 2: adapter 61, which makes 60 as good.
    text = rows([case("bias+adapter", True, bias_adapter=[0.8, 0.8]), case("prompt", False, adapter=[0.6, 0.62])])
    lines = text.splitlines()
    assert lines[2] == "| suggest | 2 of 2 | 0.5 | 1.0 | 100 and 2800 for the advice |"
    assert lines[3] == "| suggest where sure, else adapter | 2 of 2 | 0.0 | 0.0 | 100 and 2800 for the advice |"
    assert lines[4] == "| always adapter | 1 of 2 | 10.0 | 20.0 | 100 |"
    assert lines[6] == "| always bias+adapter | 2 of 2 | 0.5 | 1.0 | 100 |"
    assert lines[8] == "| full knowledge | 2 of 2 | 0.0 | 0.0 | 100 |"
    assert "One suggestion took 30 s, mean over the tasks." in lines
    assert lines[-2].startswith("| aspect-0 | bias+adapter | yes | 50.0 | 60.0 ± 14.1 | 60.0 ± 14.1 | 80.0 ± 0.0 |")


def test_the_arms_of_the_grid_do_the_same_runs(script, tmp_path, capsys):
    module = script("combos_grid")
    module.main(tmp_path, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("132 runs; about ")  # 2 rounds x 2 models x (3 arms of 10 runs, and 3 alone)
    assert len(lines) == 1 + 2 * (3 + 1 + 1 + 1)
    grid = module.grid_of("world/m0", None, (1e-3,), (13, 21), 8, 20)
    assert [words[3] for words in module.commands(grid, module.ALONE, 1, tmp_path)] == ["run"]
    assert module.commands(grid, module.GRID, 1, tmp_path)[0][-4:] == ["--workers", "1", "--out_dir", str(tmp_path)]


def test_the_table_of_the_grid(script):
    module = script("combos_grid")
    seconds = {module.ALONE: 60, module.TRAINER: 40, module.GRID: 20, module.WORKERS: 12}
    found = [
        {"model": "world/m0", "arm": arm, "runs": 3 if arm == module.ALONE else 6, "seconds": taken, "peak_mib": 1000.4}
        for arm, taken in seconds.items()
    ]
    assert module.rows(found) == (
        "| model | arm | runs a minute | to one process per run | peak memory, MiB |\n|---|---|---|---|---|\n"
        "| world/m0 | one process per run | 3.0 | 1.0 | 1,000 |\n"
        "| world/m0 | PEFT and Trainer | 9.0 | 3.0 | 1,000 |\n"
        "| world/m0 | grid | 18.0 | 6.0 | 1,000 |\n"
        "| world/m0 | grid, workers | 30.0 | 10.0 | 1,000 |\n"
    )
