"""All eight combinations on the published 16-shot samples of real tasks, with a real encoder.

    uv run python benchmarks/combos.py --data_dir DATA --out_dir runs/combos --table runs/combos.md

`--data_dir` holds the folders `k-shot` (the published samples, with one test file for each task) and `glue`. The encoder is the
22M-parameter one that the test group installs. It has no head for masked words, so it is asked in two ways:

- `head`: by a new classification head (published: few_shot_type finetune), the encoder as it is;
- `manual`, and on demand `none`: by label words at a mask, with the task's template and without. Its head is a new one whose
  output matrix is the word table, trained together with the encoder on hidden words of the training texts of four GLUE tasks.
  RTE, whose pairs of long texts take most of the time and which this encoder does not learn, is asked by `head` alone.

Each step is one command of `deltatune` or `deltatune-combos`, printed as it could be typed; a finished one is not done again,
and a grid that was interrupted goes on. The number of runs and an estimate are printed first.

Nothing is selected on the examples that are reported: each method has one learning rate, the default of its delta (the soft
prompt's 1e-2, else 1e-3), and the weights that are best on dev are kept. Batches are larger than the published 4 and updates
fewer, for the time.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from steps import encoder, lean, not_begun, publish, run_steps

from deltatune.combos import cli
from deltatune.combos.gathering import Trial, choose
from deltatune.combos.results import cells, columns_of, gap_cell, markdown, row_of, score_cell
from deltatune.core import cli as core
from deltatune.core.data import builtin_task, load_task
from deltatune.core.evidence import constant
from deltatune.core.files import read_json, write_text
from deltatune.core.pool import cores
from deltatune.core.run import read_records

TASKS = ("glue/sst-2", "glue/cola", "glue/rte", "trec")
OTHERS = ("glue/mrpc", "glue/qnli", "glue/sts-b", "sst-5", "mr", "cr", "mpqa", "subj", "glue/mnli", "glue/qqp", "snli")
WAYS = ("head", "manual")
ORDER = (*WAYS, "none")
HEAD_ALONE = ("glue/rte",)
TEXTS = ("glue/sst-2", "glue/cola", "glue/rte", "glue/mrpc")
SEEDS = (13, 21, 42, 87, 100)
TUNED = 7  # combinations, the untuned model left out
RATES = "{prompt: [1e-2], other: [1e-3]}"
SECONDS = {"glue/rte": 55.0, "glue/qnli": 60.0}  # of a run of 100 updates in one thread; of others SHORT
SHORT = 10.0


@dataclass(frozen=True)
class Plan:
    """What is done.

    Args:
        data_dir: holds `k-shot` and `glue`.
        out_dir: where the runs go.
        model: the encoder.
        tasks: which tasks.
        ways: which ways to ask.
        seeds: which of the published samples.
        steps: updates of 8 examples.
        head_updates: of the head for masked words, each on 16 rows of 128 tokens.
        max_test: test examples at most.
        workers: runs at a time.
    """

    data_dir: Path
    out_dir: Path
    model: str
    tasks: tuple[str, ...]
    ways: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    head_updates: int
    max_test: int | None
    workers: int

    @property
    def with_head(self) -> Path:
        """The folder of the encoder with a head for masked words."""
        return self.out_dir / "with-head"

    def folder(self, task: str, way: str) -> Path:
        """Of a grid."""
        return self.out_dir / f"{task.replace('/', '-')}-{way}"

    def heading(self) -> list[list[Any]]:
        """The command that gives the encoder a head for masked words, where a way needs one."""
        words = ["pretrain", "--model", self.model, "--fresh_head", "true", "--texts", self.out_dir / "texts.jsonl"]
        words += ["--steps", self.head_updates, "--mlm.max_length", 128, "--seed", 0, "--out_dir", self.with_head]
        return [words] if set(self.ways) != {"head"} else []

    def grid(self, task: str, way: str) -> list[Any]:
        """The command of a grid."""
        data = self.out_dir / "data" / folder_of(task) / "16-{seed}"
        asked = ["--form", "head", "--model", self.model]
        if way != "head":
            asked = ["--form", "prompt", "--templates", f"[{way}]", "--model", self.with_head]
        words = ["grid", *asked, "--task", task, "--data_dir", data, "--precision", lean(), "--train.precision", lean()]
        words += ["--train.steps", self.steps, "--train.eval_every", max(1, self.steps // 4), "--train.batch_size", 8]
        words += ["--rates", RATES, "--seeds", f"[{', '.join(map(str, self.seeds))}]", "--workers", self.workers]
        return [*words, *(["--max_test", self.max_test] if self.max_test else []), "--out_dir", self.folder(task, way)]

    def runs(self, way: str) -> int:
        """How many runs a grid has."""
        return TUNED * len(self.seeds) + (way != "head")

    def finished(self, task: str, way: str) -> int:
        """How many of them are finished."""
        return sum("scores" in read_json(path) for path in self.folder(task, way).glob("runs/*/run.json"))


def main(
    data_dir: Path,
    out_dir: Path,
    model: str | None = None,
    tasks: tuple[str, ...] = TASKS,
    ways: tuple[str, ...] = WAYS,
    seeds: tuple[int, ...] = SEEDS,
    steps: int = 100,
    head_updates: int = 300,
    max_test: int | None = None,
    full: bool = False,
    workers: int | None = None,
    table: Path | None = None,
    records: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Do what is not done yet, and print the tables.

    Args:
        data_dir: holds `k-shot` and `glue`.
        out_dir: where the runs go.
        model: the encoder; by default that of the test group.
        tasks: which tasks.
        ways: of head, manual and none.
        seeds: which of the published samples, and of initial values, order and dropout.
        steps: updates of 8 examples.
        head_updates: updates of the head for masked words.
        max_test: test examples at most; by default all.
        full: all tasks of `k-shot` that have a test file.
        workers: runs at a time; by default one for each core.
        table: also write the tables to this file.
        records: also write what they are made from to this file.
        dry_run: print the commands and the estimate only.
    """
    chosen = tuple(task for task in (*tasks, *OTHERS) if tests_of(data_dir, task)) if full else tasks
    base = model or encoder()
    plan = Plan(data_dir, out_dir, base, chosen, ways, seeds, steps, head_updates, max_test, workers or cores())
    grids = [(task, way) for task in chosen for way in ways_of(task, ways)]
    done = sum(plan.finished(task, way) for task, way in grids)
    left = sum((plan.runs(way) - plan.finished(task, way)) * SECONDS.get(task, SHORT) for task, way in grids) * steps / 100
    minutes = left / 60 / plan.workers + len(not_begun(plan.heading())) * head_updates * 0.8 / 60
    count = sum(plan.runs(way) for _, way in grids)
    print(f"{count} runs in {len(grids)} grids, {done} of them finished; about {minutes:.0f} minutes")
    if dry_run:
        for words in plan.heading():
            print("deltatune", *words)
        for task, way in grids:
            print("deltatune-combos", *plan.grid(task, way))
        return
    prepare(plan)
    run_steps("deltatune", core.main, plan.heading())
    run_steps("deltatune-combos", cli.main, [plan.grid(task, way) for task, way in grids])
    found = [record for task, way in grids for record in results(plan, task, way)] + [head_record(plan)] * bool(plan.heading())
    publish(found, rows(found), records, table)


def ways_of(task: str, ways: tuple[str, ...]) -> tuple[str, ...]:
    """The ways that a task is asked in."""
    return ("head",) if task in HEAD_ALONE and "head" in ways else ways


def folder_of(task: str) -> str:
    """The folder of a task among the samples."""
    return builtin_task(task).folders[0]


def tests_of(data_dir: Path, task: str) -> list[Path]:
    """The test files of a task: one, which stands under one seed alone, or none."""
    return sorted((data_dir / "k-shot" / folder_of(task)).glob(f"*/{builtin_task(task).file('test')}"))


def prepare(plan: Plan) -> None:
    """Samples with the test file beside each, and the texts whose words are hidden, one document a line."""
    for task in plan.tasks:
        tests = tests_of(plan.data_dir, task)
        if not tests:
            sys.exit(f"{task} has no test file below {plan.data_dir / 'k-shot' / folder_of(task)}; leave it out of --tasks")
        for seed in plan.seeds:
            source = plan.data_dir / "k-shot" / folder_of(task) / f"16-{seed}"
            target = plan.out_dir / "data" / folder_of(task) / f"16-{seed}"
            target.mkdir(parents=True, exist_ok=True)
            for path in [*source.iterdir(), tests[0]]:
                shutil.copyfile(path, target / path.name)
    path = plan.out_dir / "texts.jsonl"
    if plan.heading() and not path.is_file():
        texts = [" ".join(example.texts) for task in TEXTS for example in load_task(task, plan.data_dir / "glue").train]
        write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in dict.fromkeys(texts)))


def results(plan: Plan, task: str, way: str) -> list[dict[str, Any]]:
    """The scores of every run of a grid, and what the most frequent answer scores."""
    first = plan.out_dir / "data" / folder_of(task) / f"16-{plan.seeds[0]}"
    test = load_task(task, first, max_test=plan.max_test)
    label = {name: number for number, name in enumerate(test.labels)}
    answers = [example.label if isinstance(example.label, float) else label[str(example.label)] for example in test.test]
    always = constant(test.metric, answers).value
    found = []
    for path in sorted(plan.folder(task, way).glob("runs/*/run.json")):
        facts = read_json(path)
        row = row_of(facts)
        if row is None:
            sys.exit(f"{path} is not finished; run the same command again")
        scores = {"dev": row.trial.dev, "test": row.trial.test, "train": row.trial.train, "metric": row.metric}
        about = {"trained": row.trained, "update_ms": row.update_ms, "base": facts["base"]["digest"]}
        place = {"task": task, "way": way, "methods": row.facts["methods"], "seed": row.facts["seed"]}
        found.append(
            {"kind": "run", **place, **scores, "n": len(answers), "constant": None if always != always else always, **about}
        )
    return found


def head_record(plan: Plan) -> dict[str, Any]:
    """The loss of the head for masked words: mean over the first and over the last of its updates that were logged together."""
    curve = [record["value"] for record in read_records(plan.with_head) if record["kind"] == "loss"]
    return {"kind": "head", "updates": plan.head_updates, "first_loss": curve[0], "last_loss": curve[-1]}


def rows(records: list[dict[str, Any]]) -> str:
    """The published combination table, score and then gap; and what the scores compare with."""
    runs = [record for record in records if record["kind"] == "run"]
    groups: dict[tuple[str, str, str], list[Trial]] = {}
    for run in sorted(runs, key=lambda run: ORDER.index(run["way"])):
        trial = Trial(str(run["seed"]), None, run["dev"], run["test"], run["train"])
        groups.setdefault((run["task"], run["way"], run["methods"]), []).append(trial)
    chosen = {place: choose(trials) for place, trials in groups.items()}
    columns = columns_of(chosen)
    facts = {run["task"]: run for run in runs}
    lines = [markdown(cells(chosen, score_cell), columns, best=True), "Training minus test score:\n"]
    lines += [markdown(cells(chosen, gap_cell), columns, best=False)]
    lines += ["| task | metric | test examples | always the most frequent answer | seeds |\n|---|---|---|---|---|"]
    for task, run in facts.items():
        seeds = len({other["seed"] for other in runs if other["task"] == task})
        always = "" if run["constant"] is None else f"{100 * run['constant']:.1f}"
        lines.append(f"| {task} | {run['metric']} | {run['n']:,} | {always} | {seeds} |")
    for record in records:
        if record["kind"] == "head":
            losses = f"{record['first_loss']:.2f} to {record['last_loss']:.2f}"
            lines.append(f"\nLoss of the head for masked words, over {record['updates']} updates: {losses}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
