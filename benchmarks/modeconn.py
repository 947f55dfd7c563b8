"""Are fine-tuned models and deltas of a real encoder connected? Lines between them, and curves where a line has a barrier.

    uv run python benchmarks/modeconn.py --data_dir DATA --out_dir runs/modeconn --records docs/records/modeconn.jsonl

The 22M-parameter encoder of the test group, fine-tuned on SST-2 and on RTE, and with LoRA on TREC (six kinds of questions).
Pairs: other seeds (of initial values and of order), the two halves of the training data with one seed, and the two fine-tuned
tasks, where each task is scored with its own output tensors. Between LoRAs of other seeds also the line after the rotation of
their factors is undone (align), and the line of their products (product). No two pairs of a kind share a run, except that the
two-task pairs are made of runs that the pairs of seeds have as well. Each step is one `deltatune-modeconn` command, printed as
it could be typed; a finished one is not done again. The number of steps and an estimate are printed first.

Nothing is selected on the examples that are reported, the first 400 of dev (RTE has 277): the last weights are kept, and the
learning rates are the defaults. A curve is learned between the ends of one task where the line's loss barrier is at least 0.02;
it therefore begins from lines whose barrier is rather over- than underestimated. An end is good where its accuracy is more than
two standard errors above that of the most frequent answer; a pair with another end is void: it is counted, and shown last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from modeconn_pages import draw, rows
from steps import encoder, lean, not_begun, publish, run_steps

from deltatune.core.data import Task, load_task
from deltatune.core.evidence import constant
from deltatune.core.files import read_json, write_text
from deltatune.core.run import read_records
from deltatune.modeconn import cli

PROGRAM, HIGH = "deltatune-modeconn", 0.02
QUESTIONS = """name: trec
reader: tsv
header: false
folders: [trec]
train: trec_train.tsv
dev: trec_dev.tsv
test: trec_test.tsv
text_positions: [0]
label_position: 1
labels: [abbreviation, description, entity, human, location, numeric]
metric: accuracy
"""


@dataclass(frozen=True)
class Subject:
    """What is tuned.

    Args:
        folder: of the task, below the data folder.
        delta: what is trained.
        update: seconds of an update of 16 examples, for the estimate.
        scored: seconds of an example that is scored, likewise.
    """

    folder: str
    delta: str
    update: float
    scored: float


SUBJECTS = {
    "sst-2": Subject("glue", "Full", 0.22, 0.005),
    "rte": Subject("glue", "Full", 0.45, 0.012),
    "trec": Subject("gym", "LoRA", 0.12, 0.004),
}


@dataclass(frozen=True)
class Pair:
    """Two runs with a path between them.

    Args:
        kind: seeds, halves or tasks.
        number: of the pair among those of its kind.
        left: subject and variant of the run at 0.
        right: the same at 1.
    """

    kind: str
    number: int
    left: tuple[str, str]
    right: tuple[str, str]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{'-'.join(dict.fromkeys((self.left[0], self.right[0])))}-{self.number}"


@dataclass(frozen=True)
class Plan:
    """What is done.

    Args:
        data_dir: the folder that holds `glue` and `gym`.
        out_dir: where the runs go.
        model: the encoder.
        pairs: of each kind.
        steps: updates of a run, of 16 examples.
        curve: updates of a curve.
        points: places on a path.
        max_dev: dev examples at a place.
    """

    data_dir: Path
    out_dir: Path
    model: str
    pairs: int
    steps: int
    curve: int
    points: int
    max_dev: int

    def task(self, subject: str) -> str:
        """Built-in name, or the task file that this script writes."""
        return str(self.out_dir / "trec.yaml") if subject == "trec" else f"glue/{subject}"

    def all_pairs(self) -> Iterator[Pair]:
        """By kind and subject."""
        for subject in SUBJECTS:
            for n in range(self.pairs):
                yield Pair("seeds", n, (subject, f"seed-{2 * n}"), (subject, f"seed-{2 * n + 1}"))
        for subject in SUBJECTS:
            for n in range(self.pairs):
                yield Pair("halves", n, (subject, f"first-{n}"), (subject, f"second-{n}"))
        for n in range(self.pairs):
            yield Pair("tasks", n, ("sst-2", f"seed-{n}"), ("rte", f"seed-{n}"))

    def run(self, end: tuple[str, str]) -> Path:
        """The folder of a run."""
        return self.out_dir / f"{end[0]}-{end[1]}"

    def tuning(self, end: tuple[str, str]) -> list[Any]:
        """The command of a run."""
        subject, (variant, seed) = SUBJECTS[end[0]], end[1].split("-")
        words = ["tune", "--model", self.model, "--task", self.task(end[0]), "--data_dir", self.data_dir / subject.folder]
        words += [
            "--delta",
            subject.delta,
            "--max_length",
            128,
            "--max_dev",
            self.max_dev,
            "--max_test",
            1,
            *self.training(self.steps),
        ]
        half = [] if variant == "seed" else ["--half", variant]
        return [*words, *half, "--init_seed", seed, "--data_seed", seed, "--out_dir", self.run(end)]

    def training(self, steps: int) -> list[Any]:
        """What all trainings share; the last weights are kept."""
        cast = ["--precision", lean(), "--train.precision", lean(), "--train.group_by_length", "true"]
        return [*cast, "--train.steps", steps, "--train.eval_every", steps, "--train.select", "last"]

    def line(self, pair: Pair, shape: str = "line") -> list[Any]:
        """The command of a line; `shape` as `shapes` has it."""
        ends = ["--left", self.run(pair.left), "--right", self.run(pair.right), *([] if shape == "line" else [f"--{shape}"])]
        return ["walk", *ends, "--points", self.points, "--split", "dev", "--out_dir", self.out_dir / f"{shape}-{pair.name}"]

    def shapes(self, pair: Pair) -> tuple[str, ...]:
        """The lines between the ends of a pair: of LoRAs from other initial values also without their factors' symmetries."""
        symmetric = pair.kind == "seeds" and SUBJECTS[pair.left[0]].delta == "LoRA"
        return ("line", "align", "product") if symmetric else ("line",)

    def curving(self, pair: Pair) -> list[Any]:
        """The command of a curve."""
        ends = ["--left", self.run(pair.left), "--right", self.run(pair.right), "--points", self.points]
        return [
            "curve",
            *ends,
            *self.training(self.curve),
            "--data_seed",
            pair.number,
            "--out_dir",
            self.out_dir / f"curve-{pair.name}",
        ]

    def minutes(self, todo: Sequence[list[Any]]) -> float:
        """About how long commands take on one core, from their words."""
        seconds = 0.0
        for words in todo:
            own = [subject for name, subject in SUBJECTS.items() if f"{name}-" in Path(words[-1]).name]
            updates = {"tune": self.steps, "curve": 2 * self.curve, "walk": 0}[words[0]]  # a control point costs a model more
            places = 1 if words[0] == "tune" else self.points
            seconds += sum(subject.update * updates + subject.scored * self.max_dev * places for subject in own)
        return seconds / 60


def main(
    data_dir: Path,
    out_dir: Path,
    model: str | None = None,
    pairs: int = 3,
    steps: int = 300,
    curve: int = 150,
    points: int = 11,
    max_dev: int = 400,
    table: Path | None = None,
    records: Path | None = None,
    profiles: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Do what is not done yet, print a table and draw the profiles.

    Args:
        data_dir: the folder that holds `glue` and `gym`.
        out_dir: where the runs go.
        model: another encoder than that of the test group.
        pairs: of each kind and subject.
        steps: updates of a run.
        curve: updates of a curve.
        points: places on a path, both ends included.
        max_dev: dev examples at a place.
        table: also write the table to this file.
        records: also write the records that it is made from to this file.
        profiles: folder for the figures, one for each kind of pair; `figures` in out_dir by default.
        dry_run: print the commands and the estimate only.
    """
    plan = Plan(data_dir, out_dir, model or encoder(), pairs, steps, curve, points, max_dev)
    every = list(plan.all_pairs())
    ends = dict.fromkeys(end for pair in every for end in (pair.left, pair.right))
    lines = [(pair, shape) for pair in every for shape in plan.shapes(pair)]
    todo = [*map(plan.tuning, ends), *(plan.line(pair, shape) for pair, shape in lines)]
    most = [plan.curving(pair) for pair in every if pair.kind != "tasks"]
    left = not_begun(todo)
    time = f"about {plan.minutes(left):.0f} minutes on one core, plus {plan.minutes(not_begun(most)):.0f} for all curves"
    print(f"{len(todo)} steps, {len(todo) - len(left)} of them finished, then at most {len(most)} curves; {time}")
    if dry_run:
        for words in todo:
            print(PROGRAM, *words)
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / "trec.yaml", QUESTIONS)
    run_steps(PROGRAM, cli.main, todo)
    found = [record for pair, shape in lines for record in described(plan, pair, shape, out_dir / f"{shape}-{pair.name}")]
    high = {record["pair"] for record in found if record["shape"] == "line" and record["barrier"] >= HIGH}
    bent = [pair for pair in every if pair.kind != "tasks" and pair.name in high]
    run_steps(PROGRAM, cli.main, [plan.curving(pair) for pair in bent])
    found += [record for pair in bent for record in described(plan, pair, "curve", out_dir / f"curve-{pair.name}" / "sweep")]
    publish(found, rows(found), records, table)
    for path in draw(found, profiles or out_dir / "figures"):
        print(path)


def described(plan: Plan, pair: Pair, shape: str, folder: Path) -> Iterator[dict[str, Any]]:
    """What was found on a path, for each task that it was evaluated on."""
    paths, points = read_json(folder / "run.json")["paths"], read_records(folder)
    for end in dict.fromkeys((pair.left[0], pair.right[0])):
        subject, task = SUBJECTS[end], plan.task(end)
        own = [row for row in points if (row["task"], row["split"]) == (task, "dev")]
        chance, on_dev = most_frequent(load_task(task, plan.data_dir / subject.folder), plan.max_dev), paths[task]["dev"]
        yield {
            "kind": pair.kind, "pair": pair.name, "delta": subject.delta, "shape": shape, "task": end, "metric": own[0]["metric"],
            "n": own[0]["n"], "constant": chance, "barrier": on_dev["loss"]["barrier"], "drop": on_dev["score"]["drop"],
            "connected": on_dev["connected"], "ends": [own[0]["value"], own[-1]["value"]], "distance": paths[task]["distance"],
            "good": all(good(row, chance) for row in ends_of(pair, end, own)),
            **{name: [row[name] for row in own] for name in ("x", "loss", "value")},
        }  # fmt: skip


def most_frequent(task: Task, count: int) -> float:
    """Accuracy of the most frequent answer to the first dev examples."""
    return constant("accuracy", [task.labels.index(str(example.label)) for example in task.dev[:count]]).value


def ends_of(pair: Pair, subject: str, own: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ends that should know the task: on a line between two tasks, its own."""
    if pair.kind != "tasks":
        return [own[0], own[-1]]
    return [own[0] if subject == pair.left[0] else own[-1]]


def good(row: dict[str, Any], chance: float) -> bool:
    """Whether an end is better than the most frequent answer."""
    return bool(row["value"] - 2 * row["stderr"] > chance)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
