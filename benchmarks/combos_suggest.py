"""Is the advice of `deltatune-combos suggest` good? Compared with what tuning every combination shows.

    uv run python benchmarks/combos_suggest.py --out_dir runs/suggest --table runs/suggest.md

A case is a task of the built-in world with 16 examples of each class. `suggest` says which combination to take, by
cross-validation over these alone. Then every combination is tuned on all of them, as long, with several seeds, and scored on the
test examples. Each step is one command, printed as it could be typed; a finished one is not done again.

A policy's combination is as good as the best where its mean test score is at most one point below that of the best one; regret
is how far below it is. Full knowledge takes the best by test. Each method has one learning rate, as in the package's claims.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from steps import not_begun, points, publish, run_steps

from deltatune.combos import cli
from deltatune.combos.combination import SIMULTANEOUS
from deltatune.core.evidence import Truth, judge
from deltatune.core.files import read_json

MODEL = "world/m0"
KINDS = ("sentiment", "topic", "aspect", "relation", "inference", "acceptability")
TASKS = tuple(f"{kind}-{number}" for kind in KINDS for number in (0, 2))
RATES = {"prompt": 1e-2, "other": 3e-3}
FOLDS = 4
NEAR = 1.0  # points
ADVISED, CAREFUL, KNOWING = "suggest", "suggest where sure, else adapter", "full knowledge"
FIXED = ("adapter", "bias", "bias+adapter", "prompt+bias+adapter")
SECONDS = {"suggest": 40.0, "run": 2.0}  # of one thread, with 100 updates


def commands(task: str, out_dir: Path, updates: int, seeds: int) -> Iterator[list[Any]]:
    """The advice, and every combination to the end."""
    common = ["--model", MODEL, "--task", f"world/{task}", "--shots", 16, "--sizes.prompt_length", 5, "--sizes.width", 8]
    common += ["--train.batch_size", 8]
    rates = "{" + ", ".join(f"{name}: [{rate}]" for name, rate in RATES.items()) + "}"
    advice = ["suggest", *common, "--rates", rates, "--folds", FOLDS, "--updates", updates, "--budget", "1h"]
    yield [*advice, "--out_dir", out_dir / task / "suggest"]
    for methods in SIMULTANEOUS:
        asked = ["run", "--methods", methods, *common, "--train_score", "false"]
        if methods == "none":
            yield [*asked, "--out_dir", folder(out_dir, task, methods, 1)]
            continue
        train = ["--lr", RATES.get(methods, RATES["other"]), "--train.steps", updates]
        train += ["--train.eval_every", updates, "--train.select", "last"]
        for seed in range(1, seeds + 1):
            own = ["--init_seed", seed, "--data_seed", seed]
            yield [*asked, *train, *own, "--out_dir", folder(out_dir, task, methods, seed)]


def folder(out_dir: Path, task: str, methods: str, seed: int) -> Path:
    """Of a run."""
    return out_dir / task / f"{methods}-{seed}"


def record(task: str, out_dir: Path, updates: int, seeds: int) -> dict[str, Any]:
    """What was advised for a task, and the test scores of every combination."""
    facts = read_json(out_dir / task / "suggest" / "run.json")
    scores = {}
    for methods in SIMULTANEOUS:
        paths = [folder(out_dir, task, methods, seed) for seed in range(1, 2 if methods == "none" else seeds + 1)]
        scores[methods] = [read_json(path / "run.json")["scores"]["test"]["value"] for path in paths]
    trained = sum(row["methods"] != "none" for row in facts["evidence"])
    return {
        "task": task,
        "chosen": facts["evidence"][0]["methods"],
        "sure": facts["sure"],
        "held_out": {row["methods"]: row["held_out_value"] for row in facts["evidence"]},
        "updates": updates,
        "advice_updates": trained * facts["folds"] * facts["updates"],
        "advice_seconds": facts["spent"],
        "scores": scores,
    }


def main(
    out_dir: Path,
    tasks: tuple[str, ...] = TASKS,
    updates: int = 100,
    seeds: int = 3,
    records: Path | None = None,
    table: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Do what is not done yet, and print two tables.

    Args:
        out_dir: where the runs go.
        tasks: of the world.
        updates: of every training, of 8 examples.
        seeds: of the tunings that the advice is compared with.
        records: also write the records that the tables are made from to this file.
        table: also write the tables to this file.
        dry_run: print the commands and the estimate only.
    """
    todo = [words for task in tasks for words in commands(task, out_dir, updates, seeds)]
    left = not_begun(todo)
    minutes = sum(SECONDS[words[0]] for words in left) * updates / 100 / 60
    print(f"{len(todo)} steps, {len(todo) - len(left)} of them finished; about {minutes:.0f} minutes on one core")
    if dry_run:
        for words in todo:
            print("deltatune-combos", *words)
        return
    run_steps("deltatune-combos", cli.main, todo)
    found = [record(task, out_dir, updates, seeds) for task in tasks]
    publish(found, rows(found), records, table)


def truth(found: dict[str, Any]) -> dict[str, Truth]:
    """What every combination was worth, in points, and the updates that it took."""
    means = {methods: 100 * statistics.mean(values) for methods, values in found["scores"].items()}
    return {methods: Truth(mean, 0 if methods == "none" else found["updates"]) for methods, mean in means.items()}


def rows(found: list[dict[str, Any]]) -> str:
    """The policies side by side, then the cases."""
    truths = [truth(case) for case in found]
    choices = {
        ADVISED: [case["chosen"] for case in found],
        CAREFUL: [case["chosen"] if case["sure"] else "adapter" for case in found],
        **{f"always {methods}": [methods] * len(found) for methods in FIXED},
        KNOWING: [max(values, key=lambda methods: values[methods].value) for values in truths],
    }
    trials = statistics.mean(case["advice_updates"] for case in found)
    seconds = statistics.mean(case["advice_seconds"] for case in found)
    lines = ["| policy | as good as the best | mean regret, points | largest regret | updates |", "|---|---|---|---|---|"]
    for row in judge(choices, truths, [NEAR] * len(truths)):
        advised = row["policy"] in (ADVISED, CAREFUL)
        cost = f"{row['cost']:.0f}" + (f" and {trials:.0f} for the advice" if advised else "")
        agreed = f"{row['agreement'] * row['cases']:.0f} of {row['cases']}"
        lines.append(f"| {row['policy']} | {agreed} | {row['regret']:.1f} | {row['worst']:.1f} | {cost} |")
    lines += ["", f"One suggestion took {seconds:.0f} s, mean over the tasks.", ""]
    lines += [f"| task | suggested | sure | {' | '.join(SIMULTANEOUS)} |", "|---|---|---|" + "---|" * len(SIMULTANEOUS)]
    for case in found:
        cells = [points(case["scores"][methods]) for methods in SIMULTANEOUS]
        lines.append(f"| {case['task']} | {case['chosen']} | {'yes' if case['sure'] else 'no'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
