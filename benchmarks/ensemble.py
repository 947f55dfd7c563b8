"""Which mixture of twenty deltas is the best start for a new task of sixteen examples a class? On real text, a real encoder.

    uv run python benchmarks/ensemble.py --data_dir DATA/gym --out_dir runs/ensemble --table runs/ensemble.md

A LoRA is tuned on each of the 21 tasks of the folder as a classification, all from one initial delta, on the 22M-parameter
encoder that the test group installs. Then six of the tasks become targets in turn: their own source is left out, 16 training and
16 dev examples of each class are drawn, the other 20 sources are weighed, and the target is tuned from initial values and from
five mixtures. Each step is one `deltatune-ensemble` command, printed as it could be typed; a finished one is not done again.
Number of steps and an estimate are printed first.

Nothing is selected on the examples that are reported: learning rates are the defaults; temperatures (all that the published
programs name) are chosen, and the best of each run's evaluations is kept, on the 16 dev examples of each class, which are also
what the sources are scored on, as published. The targets were fixed beforehand, one of each group of the tasks: sentiment,
stance, emotion, citation, question type, sentence pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble_steps import PROGRAM, left_of, run_stage
from ensemble_tables import ARMS, rows
from jsonargparse import auto_cli
from steps import encoder, lean, overlap, publish

from deltatune.core.data import load_task
from deltatune.core.files import read_json, write_text
from deltatune.core.pool import cores
from deltatune.ensemble import effective_number

TARGETS = ("rotten_tomatoes", "tweet_eval-stance_feminist", "tweet_eval-emotion", "scicite", "trec", "glue-mrpc")
MEASURES = tuple(ARMS)[1:]
SUGGESTED = "suggested"
TEMPERATURES = "[0.001, 0.01, 0.1, 1, 10, 100]"
SECONDS = {"tune-all": 75.0, "weights": 110.0, "start": 0.5, "tune": 22.0, "suggest": 100.0}  # of one thread; a source, a target


@dataclass(frozen=True)
class Plan:
    """What is done.

    Args:
        data_dir: the folder that holds the tasks' folders.
        out_dir: where everything goes.
        model: the encoder.
        tasks: of the sources.
        targets: of them, those that are left out in turn.
        samples: few-shot samples of each target, numbered from 1; also the seed of head, order and dropout.
        steps: updates of a source, of 16 examples.
        few: updates of a target, of 16 examples.
        shots: examples of each class.
        max_test: test examples at most.
    """

    data_dir: Path
    out_dir: Path
    model: str
    tasks: tuple[str, ...]
    targets: tuple[str, ...]
    samples: int
    steps: int
    few: int
    shots: int
    max_test: int

    def task(self, name: str) -> Path:
        """The task file."""
        return self.out_dir / "tasks" / f"{name}.yaml"

    def write_tasks(self) -> None:
        """The tasks as classifications: a text and a label in each line."""
        manifest = read_json(self.data_dir / "manifest.json")
        for name in self.tasks:
            about = {"reader": "tsv", "metric": "accuracy", "folders": [name], "header": False, "text_positions": [0]}
            about |= {split: f"{name}_{split}.tsv" for split in ("train", "dev", "test")}
            about |= {"label_position": 1, "labels": manifest[name]["labels"]}
            write_text(self.task(name), json.dumps(about, indent=1) + "\n")

    def cases(self) -> Iterator[tuple[str, int]]:
        """Target and sample."""
        for target in self.targets:
            for sample in range(1, self.samples + 1):
                yield target, sample

    def asked(self) -> list[tuple[str, int]]:
        """The cases in which `suggest` is asked: the first sample of each target."""
        return [case for case in self.cases() if case[1] == 1]

    def folder(self, case: tuple[str, int], what: str) -> Path:
        """Where a step of a case is kept."""
        return self.out_dir / f"{case[0]}-{case[1]}" / what

    def stages(self) -> dict[str, list[list[Any]]]:
        """The commands; those of one stage do not wait for each other."""
        tasks = ", ".join(str(self.task(name)) for name in self.tasks)
        cast = ["--precision", lean(), "--train.precision", lean(), "--train.group_by_length", "true", "--max_length", 128]
        sizes = ["--train.steps", self.steps, "--train.eval_every", max(1, self.steps // 3), "--max_dev", 200, "--max_test", 500]
        own = ["tune-all", "--tasks", f"[{tasks}]", "--model", self.model, "--delta", "LoRA", "--data_dir", self.data_dir]
        stages = {"sources": [[*own, *cast, *sizes, "--init_seed", 0, "--workers", cores(), "--out_dir", self.sources]]}
        stages["weights"] = [self.weighing(case) for case in self.cases()]
        stages["starts"] = [self.mixing(case, name) for case in self.cases() for name in MEASURES]
        few = ["--train.steps", self.few, "--train.eval_every", max(1, self.few // 4), "--max_test", self.max_test]
        stages["targets"] = [self.tuning(case, arm, [*cast, *few]) for case in self.cases() for arm in ARMS]
        looked = ["--max_length", 128, "--measures", "[loss, el2n, label_cosine]", "--learned", "false"]
        asked = [["suggest", "--sources", self.sources, *self.sample(case), *looked] for case in self.asked()]
        stages["suggest"] = [
            [*words, "--out_dir", self.folder(case, "asked")] for words, case in zip(asked, self.asked(), strict=True)
        ]
        stages["suggested"] = [self.tuning(case, SUGGESTED, [*cast, *few]) for case in self.asked()]
        return stages

    @property
    def sources(self) -> Path:
        """The folder of the sources."""
        return self.out_dir / "sources"

    def sample(self, case: tuple[str, int]) -> list[Any]:
        """The examples of a case."""
        return ["--task", self.task(case[0]), "--data_dir", self.data_dir, "--shots", self.shots, "--sample_seed", case[1]]

    def weighing(self, case: tuple[str, int]) -> list[Any]:
        """The command that weighs the sources."""
        sample = ["--tasks", f"[{self.task(case[0])}]", *self.sample(case)[2:], "--max_length", 128]
        how = ["--measures", f"[{', '.join(MEASURES)}]", "--temperatures", TEMPERATURES]
        return ["weights", "--sources", self.sources, *sample, *how, "--out_dir", self.folder(case, "weights")]

    def mixing(self, case: tuple[str, int], measure: str) -> list[Any]:
        """The command that makes a mixture."""
        words = ["start", "--weights", self.folder(case, "weights"), "--measure", measure]
        return [*words, "--out_dir", self.folder(case, f"start-{measure}")]

    def tuning(self, case: tuple[str, int], arm: str, how: list[Any]) -> list[Any]:
        """The command that tunes a target from where an arm begins."""
        words = ["tune", "--model", self.model, "--delta", "LoRA", *self.sample(case), *how]
        start = [] if arm == "random" else ["--start", self.folder(case, f"start-{arm}") / case[0]]
        start = ["--start", self.folder(case, "asked") / "start"] if arm == SUGGESTED else start
        return [*words, "--init_seed", case[1], "--data_seed", case[1], *start, "--out_dir", self.folder(case, arm)]

    def record(self, case: tuple[str, int], arm: str) -> dict[str, Any]:
        """What came of an arm, and the weights behind it."""
        facts = read_json(self.folder(case, arm) / "run.json")
        test = facts["scores"]["test"]
        found = {
            "kind": "arm",
            "target": case[0],
            "sample": case[1],
            "arm": arm,
            "metric": test["metric"],
            "value": test["value"],
        }
        found |= {"n": test["n"], "base": facts["base"]["digest"], "seconds": facts["train_seconds"]}
        if arm == "random":
            return found
        weighed = read_json(self.folder(case, "weights") / "run.json")
        weights = weighed["weights"][arm]["all"][case[0]]
        warm = weighed["temperatures"].get(arm, {}).get("all", {}).get(case[0])
        heaviest = max(weights, key=lambda source: weights[source])
        return found | {"temperature": warm, "sources": effective_number(weights), "heaviest": heaviest}

    def shared(self) -> Iterator[dict[str, Any]]:
        """Which targets have test texts that are training texts of a source, and how many of them."""
        tasks = {name: load_task(self.task(name), self.data_dir, max_test=self.max_test) for name in self.tasks}
        for target in self.targets:
            for source in self.tasks:
                share = overlap(tasks[source].train, tasks[target].test)
                if source != target and share > 0:
                    yield {"kind": "shared", "target": target, "source": source, "share": share}

    def suggested(self, case: tuple[str, int]) -> dict[str, Any]:
        """What `suggest` said of a case, and what came of tuning from it."""
        facts, run = (read_json(self.folder(case, what) / "run.json") for what in ("asked", SUGGESTED))
        first, uniform = (facts["evidence"][0], next(row for row in facts["evidence"] if row["weighing"] == "uniform"))
        kept = {name: first[name] for name in ("held_out_loss", "gain", "low", "high", "n")}
        kept |= {"uniform_loss": uniform["held_out_loss"], "sources": first["effective_number"]}
        kept |= {"heaviest": max(first["weights"], key=first["weights"].__getitem__), "value": run["scores"]["test"]["value"]}
        about = {
            "target": case[0],
            "sample": case[1],
            "chosen": facts["chosen"],
            "sure": facts["sure"],
            "seconds": facts["seconds"],
        }
        return {"kind": "suggest", **about, **kept}


def main(
    data_dir: Path,
    out_dir: Path,
    model: str | None = None,
    tasks: tuple[str, ...] | None = None,
    targets: tuple[str, ...] = TARGETS,
    samples: int = 3,
    steps: int = 300,
    few: int = 100,
    shots: int = 16,
    max_test: int = 1000,
    table: Path | None = None,
    records: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Do what is not done yet, and print a table.

    Args:
        data_dir: the folder that holds the tasks' folders and manifest.json.
        out_dir: where everything goes.
        model: the encoder; by default that of the test group.
        tasks: of the sources; by default all that the manifest names.
        targets: of them, those that are left out in turn.
        samples: few-shot samples of each target.
        steps: updates of a source.
        few: updates of a target.
        shots: examples of each class.
        max_test: test examples at most.
        table: also write the table to this file.
        records: also write what it is made from to this file.
        dry_run: print the commands and the estimate only.
    """
    base = model or encoder()
    names = tasks or tuple(read_json(data_dir / "manifest.json"))
    plan = Plan(data_dir, out_dir, base, names, targets, samples, steps, few, shots, max_test)
    stages = plan.stages()
    todo = [words for commands in stages.values() for words in commands]
    left = left_of(todo)
    each = {**SECONDS, "tune-all": SECONDS["tune-all"] * len(names) * steps / 300, "tune": SECONDS["tune"] * few / 100}
    seconds = sum(each[words[0]] for words in left)
    done, minutes = len(todo) - len(left), seconds / 60 / cores()
    print(f"{len(todo)} steps, {done} of them finished; about {minutes:.0f} minutes on {cores()} cores")
    if dry_run:
        for words in todo:
            print(PROGRAM, *words)
        return
    plan.write_tasks()
    for name, commands in stages.items():
        run_stage(name, commands, cores())
    found = [plan.record(case, arm) for case in plan.cases() for arm in ARMS] + [
        *plan.shared(),
        *map(plan.suggested, plan.asked()),
    ]
    publish(found, rows(found), records, table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
