"""Is the advice of `deltatune-recyclable advise` good? Compared with what full tuning later shows, on the built-in world.

    uv run python benchmarks/advise.py --out_dir runs/advise --table runs/advise.md

A case is an old base and a new one, a task, and a delta tuned on the old base with all training examples. `advise` says what to
do after trainings of 40 updates each on 500 examples. Then every way is gone to the end: the delta untouched, and tunings on
all 2,000 examples from it, with it as teacher, and afresh, with several seeds. Each step is one command, printed as it could be
typed; a finished one is not done again.

A policy's way is as good as the best where its mean test score is at most one point below that of the best way; regret is how
far below it is. Undecided counts as tuning afresh. The learning rate is 1e-2 everywhere, which solves the tasks on the old base.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from steps import not_begun, points, publish, run_steps

from deltatune.core.evidence import Truth, judge
from deltatune.core.files import read_json
from deltatune.recyclable import cli

OLD = "world/m0"
NEW = ("world/m1", "world/m3", "world/other-m3")
TASKS = ("aspect-1", "relation-2", "inference-3")
DELTAS = ("LoRA", "Houlsby")
UPDATES, TRIAL, RATE = 200, 40, 1e-2
ADVISED = {
    "reuse as it is": "untouched",
    "initialize from it": "initialized",
    "distill from it": "distilled",
    "tune afresh": "afresh",
    "undecided": "afresh",
}
WAYS = ("untouched", "initialized", "distilled", "afresh")
POLICIES = {
    "always reuse": "untouched",
    "always initialize": "initialized",
    "always distill": "distilled",
    "always retune": "afresh",
}


@dataclass(frozen=True)
class Case:
    """One question.

    Args:
        new: the upgraded base.
        task: of the world.
        delta: kind of the old delta.
    """

    new: str
    task: str
    delta: str

    def folder(self, out_dir: Path, what: str) -> Path:
        """Where a step is kept; the old delta is that of several cases."""
        if what == "old":
            return out_dir / f"old-{self.task}-{self.delta}"
        return out_dir / f"{Path(self.new).name}-{self.task}-{self.delta}" / what

    def commands(self, out_dir: Path, seeds: int) -> Iterator[list[Any]]:
        """The old delta, the advice, and every way to the end."""
        old = self.folder(out_dir, "old")
        asked = ["--form", "prompt", "--task", f"world/{self.task}", "--delta", self.delta]
        train = ["--train.steps", UPDATES, "--train.eval_every", UPDATES, "--train.select", "last", "--lr", RATE, "--max_dev", 1]
        yield ["tune", "--model", OLD, *asked, *train, "--init_seed", 0, "--data_seed", 0, "--out_dir", old]
        bases = ["--old-base", OLD, "--new-base", self.new, "--deltas", old, "--task", f"world/{self.task}"]
        yield ["advise", *bases, "--updates", TRIAL, "--lr", RATE, "--budget", 600, "--out_dir", self.folder(out_dir, "advice")]
        yield ["apply", "--run", old, "--model", self.new, "--max_dev", 1, "--out_dir", self.folder(out_dir, "untouched")]
        for seed in range(1, seeds + 1):
            own = [*train, "--init_seed", seed, "--data_seed", seed]
            where = {way: self.folder(out_dir, f"{way}-{seed}") for way in WAYS[1:]}
            yield ["init", "--run", old, "--model", self.new, *own, "--out_dir", where["initialized"]]
            yield ["distill", "--teacher", old, "--model", self.new, *asked, *own, "--out_dir", where["distilled"]]
            yield ["tune", "--model", self.new, *asked, *own, "--out_dir", where["afresh"]]

    def record(self, out_dir: Path, seeds: int) -> dict[str, Any]:
        """What was advised, and the test scores of every way."""
        advice = read_json(self.folder(out_dir, "advice") / "run.json")["deltas"][0]
        runs = {way: [f"{way}-{seed}" for seed in range(1, seeds + 1)] for way in WAYS[1:]} | {"untouched": ["untouched"]}
        scores = {
            way: [read_json(self.folder(out_dir, name) / "run.json")["scores"]["test"] for name in names]
            for way, names in runs.items()
        }
        trained = sum(trial["updates"] for trial in advice["trials"].values())
        said = {"advice": advice["advice"], "advice_updates": trained, "advice_seconds": advice["seconds"]}
        return {**vars(self), **said, "scores": {way: [one["value"] for one in found] for way, found in scores.items()}}


def main(out_dir: Path, seeds: int = 3, records: Path | None = None, table: Path | None = None, dry_run: bool = False) -> None:
    """Do what is not done yet, and print two tables.

    Args:
        out_dir: where the runs go.
        seeds: of the full tunings.
        records: also write the records that the tables are made from to this file.
        table: also write the tables to this file.
        dry_run: print the commands and the estimate only.
    """
    plan = [Case(new, task, delta) for new in NEW for task in TASKS for delta in DELTAS]
    commands = [words for case in plan for words in case.commands(out_dir, seeds)]
    todo = list({str(words[-1]): words for words in commands}.values())
    left = not_begun(todo)
    print(f"{len(todo)} steps, {len(todo) - len(left)} of them finished; about {len(left) * 5 / 60:.0f} minutes on one core")
    if dry_run:
        for words in todo:
            print("deltatune-recyclable", *words)
        return
    run_steps("deltatune-recyclable", cli.main, todo)
    found = [case.record(out_dir, seeds) for case in plan]
    publish(found, rows(found), records, table)


def truth(record: dict[str, Any]) -> dict[str, Truth]:
    """What every way was worth, in points."""
    means = {way: 100 * statistics.mean(values) for way, values in record["scores"].items()}
    return {way: Truth(mean, 0 if way == "untouched" else UPDATES) for way, mean in means.items()}


def rows(found: list[dict[str, Any]]) -> str:
    """The policies side by side, then the cases."""
    return policies(found) + "\n" + cases(found)


def policies(found: list[dict[str, Any]]) -> str:
    """What going by the advice is worth, and what fixed rules are."""
    truths = [truth(record) for record in found]
    choices = {"advise": [ADVISED[record["advice"]] for record in found]} | {
        policy: [way] * len(found) for policy, way in POLICIES.items()
    }
    judged = judge(choices, truths, [1.0] * len(truths))
    trials = statistics.mean(record["advice_updates"] for record in found)
    lines = ["| policy | as good as the best | mean regret, points | largest regret | updates |", "|---|---|---|---|---|"]
    for row in judged:
        cost = f"{row['cost']:.0f}" + (f" and {trials:.0f} for the advice" if row["policy"] == "advise" else "")
        agreed = f"{row['agreement'] * row['cases']:.0f} of {row['cases']}"
        lines.append(f"| {row['policy']} | {agreed} | {row['regret']:.1f} | {row['worst']:.1f} | {cost} |")
    return "\n".join(lines) + "\n"


def cases(found: list[dict[str, Any]]) -> str:
    """Test scores of every way in points, mean and standard deviation over seeds."""
    lines = [f"| new base | task | delta | advice | {' | '.join(WAYS)} |", "|---|---|---|---|" + "---|" * len(WAYS)]
    for record in found:
        cells = [points(record["scores"][way]) for way in WAYS]
        lines.append(f"| {record['new']} | {record['task']} | {record['delta']} | {record['advice']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
