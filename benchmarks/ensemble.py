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
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble_steps import PROGRAM, left_of, run_stage
from jsonargparse import auto_cli
from steps import encoder, overlap, publish

from deltatune.core.data import load_task
from deltatune.core.files import read_json, write_text
from deltatune.core.pool import cores
from deltatune.ensemble import effective_number

TARGETS = ("rotten_tomatoes", "tweet_eval-stance_feminist", "tweet_eval-emotion", "scicite", "trec", "glue-mrpc")
ARMS = {
    "random": "from initial values",
    "uniform": "from the average of the sources",
    "single": "from the source with the lowest loss",
    "loss": "from the mixture weighted by Loss",
    "grand": "from the mixture weighted by GraNd",
    "learned": "from the mixture whose weights were learned by gradient",
}
MEASURES = tuple(ARMS)[1:]
TEMPERATURES = "[0.001, 0.01, 0.1, 1, 10, 100]"
SECONDS = {"tune-all": 75.0, "weights": 110.0, "start": 0.5, "tune": 22.0, "suggest": 500.0}  # of one thread; a source, a target


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

    def folder(self, case: tuple[str, int], what: str) -> Path:
        """Where a step of a case is kept."""
        return self.out_dir / f"{case[0]}-{case[1]}" / what

    def stages(self) -> dict[str, list[list[Any]]]:
        """The commands; those of one stage do not wait for each other."""
        tasks = ", ".join(str(self.task(name)) for name in self.tasks)
        cast = ["--precision", "bf16", "--train.precision", "bf16", "--train.group_by_length", "true", "--max_length", 128]
        sizes = ["--train.steps", self.steps, "--train.eval_every", max(1, self.steps // 3), "--max_dev", 200, "--max_test", 500]
        own = ["tune-all", "--tasks", f"[{tasks}]", "--model", self.model, "--delta", "LoRA", "--data_dir", self.data_dir]
        stages = {"sources": [[*own, *cast, *sizes, "--init_seed", 0, "--workers", cores(), "--out_dir", self.sources]]}
        stages["weights"] = [self.weighing(case) for case in self.cases()]
        stages["starts"] = [self.mixing(case, name) for case in self.cases() for name in MEASURES]
        few = ["--train.steps", self.few, "--train.eval_every", max(1, self.few // 4), "--max_test", self.max_test]
        stages["targets"] = [self.tuning(case, arm, [*cast, *few]) for case in self.cases() for arm in ARMS]
        first = next(self.cases())
        looked = ["suggest", "--sources", self.sources, *self.sample(first), "--max_length", 128]
        stages["suggest"] = [[*looked, "--out_dir", self.folder(first, "suggestion")]]
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

    def suggested(self) -> dict[str, Any]:
        """What `suggest` said of the first case."""
        case = next(self.cases())
        facts = read_json(self.folder(case, "suggestion") / "run.json")
        kept = {name: facts[name] for name in ("chosen", "sure", "seconds")}
        evidence = [{name: value for name, value in row.items() if name != "weights"} for row in facts["evidence"]]
        return {"kind": "suggest", "target": case[0], "sample": case[1], **kept, "evidence": evidence}


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
    found = [plan.record(case, arm) for case in plan.cases() for arm in ARMS] + [*plan.shared(), plan.suggested()]
    publish(found, rows(found), records, table)


def rows(found: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over samples in points, and the difference to the random start, sample by sample."""
    arms = [line for line in found if line["kind"] == "arm"]
    lines = [
        "| target | start | test, points | standard deviation | to random | better in | sources |",
        "|---|---|---|---|---|---|---|",
    ]
    targets = list(dict.fromkeys(line["target"] for line in arms))
    samples = sorted({line["sample"] for line in arms})
    points = {(line["target"], line["sample"], line["arm"]): 100 * line["value"] for line in arms}
    clean = [name for name in targets if name not in {line["target"] for line in found if line["kind"] == "shared"}]
    groups = {name: [name] for name in targets} | {f"mean of {len(targets)}": targets}
    if 0 < len(clean) < len(targets):
        groups[f"mean of the {len(clean)} that share no text with a source"] = clean
    for title, group in groups.items():
        for arm in ARMS:
            values = [statistics.mean(points[name, sample, arm] for name in group) for sample in samples]
            apart = [[points[name, sample, arm] - points[name, sample, "random"] for name in group] for sample in samples]
            cells = [title, arm, f"{statistics.mean(values):.1f}", f"{spread(values):.1f}"]
            if arm != "random":
                gains = [statistics.mean(row) for row in apart]
                every = [value for row in apart for value in row]
                counts = [line["sources"] for line in arms if line["arm"] == arm and line["target"] in group]
                cells += [f"{statistics.mean(gains):+.1f} ({spread(gains):.1f})", f"{sum(v > 0 for v in every)} of {len(every)}"]
                cells.append(f"{statistics.mean(counts):.1f}")
            lines.append(f"| {' | '.join([*cells, '', '', ''][:7])} |")
    shared = [line for line in found if line["kind"] == "shared"]
    lines += [""] if shared else []
    lines += [
        f"{100 * s['share']:.1f}% of the test texts of {s['target']} are also training texts of {s['source']}." for s in shared
    ]
    for line in found:
        if line["kind"] == "suggest":
            lines += [
                "",
                f"`suggest` on sample {line['sample']} of {line['target']} ({line['seconds']:.0f} s), its choice first:",
                "",
            ]
            lines += ["| weighing | held-out loss | better than uniform by | 95% interval |", "|---|---|---|---|"]
            lines += [_evidence(row) for row in line["evidence"]]
    return "\n".join(lines) + "\n"


def _evidence(row: dict[str, Any]) -> str:
    cells = ["", ""] if row["weighing"] == "uniform" else [f"{row['gain']:+.3f}", f"{row['low']:+.3f} to {row['high']:+.3f}"]
    return f"| {' | '.join([str(row['weighing']), format(row['held_out_loss'], '.3f'), *cells])} |"


def spread(values: list[float]) -> float:
    """Standard deviation; not a number for a single value."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
