"""Old deltas of a real encoder on an upgraded one: untouched, as start, as teacher, and both.

    uv run python benchmarks/recyclable.py --data_dir DATA/domain --out_dir runs/recyclable --table runs/recyclable.md

The upgrade: the 22M-parameter encoder that the test group installs goes on with pre-training (masked words) on the training
texts of ChemProt, ACL-ARC, SciCite and SciERC. Then for each task, delta and seed: tuned on the old base with all training
data, put on the new base as it is, its head there alone, and few-shot tunings on the new base: afresh, from the old delta, with
it as teacher, and both. Each step is one `deltatune-recyclable` command, printed as it could be typed; a finished one is not
done again. The number of steps and an estimate are printed first.

Nothing is selected on the examples that are reported: the learning rates are the defaults, alpha and temperature those of the
published commands, and of a run the weights that are best on dev are kept (of the old run the last).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from steps import encoder, lean, not_begun, publish, run_steps

from deltatune.core.data import load_task
from deltatune.core.files import read_json, write_text
from deltatune.recyclable import cli

TEXTS = ("chemprot", "acl-arc", "scicite", "scierc")
ARMS = {
    "old base": "the delta on its own base",
    "untouched": "the same on the new base, nothing trained",
    "head alone": "its head without it on the new base, nothing trained",
    "afresh": "few-shot on the new base, from initial values",
    "initialized": "few-shot on the new base, from the old delta",
    "distilled": "few-shot on the new base, with the old delta as teacher",
    "combined": "both",
}


@dataclass(frozen=True)
class Plan:
    """What is done.

    Args:
        data_dir: the folder that holds the tasks' folders.
        out_dir: where the runs go.
        old: the old base.
        tasks: which tasks.
        deltas: which deltas.
        seeds: of initial values, order and few-shot sample together.
        upgrade: updates of the upgrade, each on 16 rows of 128 tokens.
        steps: updates on the old base, of 16 examples.
        few: few-shot updates, of 16 examples.
        shots: examples of each class.
        max_test: test examples at most.
    """

    data_dir: Path
    out_dir: Path
    old: str
    tasks: tuple[str, ...]
    deltas: tuple[str, ...]
    seeds: int
    upgrade: int
    steps: int
    few: int
    shots: int
    max_test: int

    @property
    def new(self) -> Path:
        """The folder of the new base."""
        return self.out_dir / "upgraded"

    def cases(self) -> Iterator[tuple[str, str, int]]:
        """Task, delta and seed of each case."""
        for task in self.tasks:
            for delta in self.deltas:
                for seed in range(self.seeds):
                    yield task, delta, seed

    def folder(self, case: tuple[str, str, int], arm: str) -> Path:
        """The run of an arm of a case."""
        task, delta, seed = case
        return self.out_dir / f"{task}-{delta}-{seed}" / arm.replace(" ", "-")

    def upgrading(self) -> list[Any]:
        """The command that makes the new base."""
        return [
            "pretrain", "--model", self.old, "--fresh_head", "true", "--texts", self.out_dir / "texts.jsonl",
            "--steps", self.upgrade, "--mlm.max_length", 128, "--precision", lean(), "--seed", 0, "--out_dir", self.new,
        ]  # fmt: skip

    def commands(self, case: tuple[str, str, int]) -> dict[str, list[Any]]:
        """The command of each arm."""
        task, delta, seed = case
        data = ["--task", task, "--data_dir", self.data_dir, "--max_test", self.max_test]
        cast = ["--precision", lean(), "--train.precision", lean(), "--train.group_by_length", "true"]
        seeds = ["--init_seed", seed, "--data_seed", seed]
        old = self.folder(case, "old base")
        whole = [*data, *cast, *seeds, "--train.steps", self.steps, "--train.eval_every", self.steps, "--train.select", "last"]
        # The student's initial values have another seed than the teacher's, whose head they would nearly be otherwise.
        few = [*data, *cast, "--init_seed", 100 + seed, "--data_seed", seed, "--shots", self.shots, "--sample_seed", seed]
        few += ["--train.steps", self.few, "--train.eval_every", max(1, self.few // 4)]
        applied = ["apply", "--run", old, "--model", self.new, "--max_test", self.max_test, "--max_dev", 1]
        lessons = ["--alpha", 0.9, "--temperature", 5]
        found = {
            "old base": ["tune", "--model", self.old, "--delta", delta, *whole, "--max_dev", 1],
            "untouched": applied,
            "head alone": [*applied, "--scale", 0],
            "afresh": ["tune", "--model", self.new, "--delta", delta, *few],
            "initialized": ["init", "--run", old, "--model", self.new, *few],
            "distilled": ["distill", "--teacher", old, "--model", self.new, "--delta", delta, *few, *lessons],
            "combined": ["combine", "--run", old, "--model", self.new, *few, *lessons],
        }
        return {arm: [*words, "--out_dir", self.folder(case, arm)] for arm, words in found.items()}


def main(
    data_dir: Path,
    out_dir: Path,
    model: str | None = None,
    tasks: tuple[str, ...] = ("scicite", "scierc"),
    deltas: tuple[str, ...] = ("LoRA", "Full"),
    seeds: int = 3,
    upgrade: int = 300,
    steps: int = 200,
    few: int = 60,
    shots: int = 32,
    max_test: int = 1000,
    table: Path | None = None,
    records: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Do what is not done yet, and print a table.

    Args:
        data_dir: the folder that holds the tasks' folders.
        out_dir: where the runs go.
        model: the old base; by default the encoder of the test group.
        tasks: which tasks.
        deltas: which deltas.
        seeds: how many.
        upgrade: updates of the further pre-training.
        steps: updates on the old base.
        few: few-shot updates.
        shots: examples of each class.
        max_test: test examples at most.
        table: also write the table to this file.
        records: also write the scores that it is made from to this file.
        dry_run: print the commands and the estimate only.
    """
    old = model or encoder()
    plan = Plan(data_dir, out_dir, old, tasks, deltas, seeds, upgrade, steps, few, shots, max_test)
    todo = [plan.upgrading(), *(words for case in plan.cases() for words in plan.commands(case).values())]
    left = not_begun(todo)
    updates = sum({"pretrain": 4 * upgrade, "tune": few, "apply": 0}.get(words[0], few) for words in left)
    updates += (steps - few) * sum(words[-1].name == "old-base" for words in left)
    print(
        f"{len(todo)} steps, {len(todo) - len(left)} of them finished; about {updates * 0.2 / 60 + len(left) * 0.1:.0f} minutes"
    )
    if dry_run:
        for words in todo:
            print("deltatune-recyclable", *words)
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    write_texts(plan)
    run_steps("deltatune-recyclable", cli.main, todo)
    found = [
        {"task": case[0], "delta": case[1], "seed": case[2], "arm": arm, **score(plan, case, arm)}
        for case in plan.cases() for arm in ARMS
    ]  # fmt: skip
    publish(found, rows(found), records, table)


def write_texts(plan: Plan) -> None:
    """The training texts of all four tasks, one document a line."""
    path = plan.out_dir / "texts.jsonl"
    if not path.is_file():
        texts = [example.texts[0] for task in TEXTS for example in load_task(task, plan.data_dir).train]
        write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in dict.fromkeys(texts)))


def score(plan: Plan, case: tuple[str, str, int], arm: str) -> dict[str, Any]:
    """Metric, test value and number of test examples of an arm, with the digest of the base it ran on."""
    facts = read_json(plan.folder(case, arm) / "run.json")
    test = facts["scores"]["test"]
    return {"metric": test["metric"], "value": test["value"], "n": test["n"], "base": facts["base"]["digest"]}


def rows(found: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, and the gain over tuning afresh, seed by seed."""
    lines = [
        "| task | delta | arm | test metric | mean | standard deviation | to afresh | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, delta, arm in dict.fromkeys((line["task"], line["delta"], line["arm"]) for line in found):
        own = {line["seed"]: line for line in found if (line["task"], line["delta"], line["arm"]) == (task, delta, arm)}
        base = {line["seed"]: line for line in found if (line["task"], line["delta"], line["arm"]) == (task, delta, "afresh")}
        gains = [own[seed]["value"] - base[seed]["value"] for seed in own]
        values = [line["value"] for line in own.values()]
        gain = "" if arm == "afresh" else f"{statistics.mean(gains):+.3f} ({spread(gains):.3f})"
        cells = [task, delta, arm, next(iter(own.values()))["metric"], f"{statistics.mean(values):.3f}", f"{spread(values):.3f}"]
        lines.append(f"| {' | '.join(cells)} | {gain} | {len(own)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> float:
    """Standard deviation; not a number for a single value."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
