"""A unified subspace of real tasks on a real encoder: subspaces of one task and of six, each used on two unseen tasks.

    uv run python benchmarks/subspace.py --data_dir DATA/gym --out_dir runs/subspace --table runs/subspace.md

For each seed: initial values of an adapter, LoRA and a prefix of one size on the 22M-parameter encoder that the test group
installs; the original solution of eight tasks with each; a subspace of SST-2 alone (k = 4) and one of six tasks (k = 16); in
both, the coordinates of Rotten Tomatoes and MPQA tuned through each delta and decoded into all of them, beside the controls.
Each step is one `deltatune-subspace` command, printed as it could be typed; a finished one is not done again. The number of
steps and an estimate are printed first.

All tasks have two classes, since the head is part of every delta. That makes "one solution in three deltas" depend on the
head, which is much the same in all three: so the control `head` takes the head alone from what was decoded and leaves the rest
at its initial values. What it scores was not transferred from delta to delta.

Nothing is selected on the examples that are reported: the learning rates are the commands' defaults, of two published ones for
coordinates the better on dev, and of a run the weights that are best on dev.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from steps import encoder, lean, overlap, publish, run_steps

from deltatune.core import checkpoint
from deltatune.core.data import load_task
from deltatune.core.files import write_text
from deltatune.core.run import read_records
from deltatune.subspace import cli

UNSEEN = ("rotten_tomatoes", "mpqa")
SETTINGS = {
    "one task": ("glue-sst2",),
    "six tasks": ("glue-cola", "glue-mrpc", "glue-rte", "glue-sst2", "glue-wnli", "tweet_eval-irony"),
}
K = {"one task": 4, "six tasks": 16}
# 73,728 values each on six layers of width 384, beside the head.
DELTAS = (
    "--deltas+", "Houlsby", "--deltas.width", 8, "--deltas.bias", "false", "--deltas+", "LoRA", "--deltas.rank", 8,
    "--deltas+", "Prefix", "--deltas.length", 36, "--deltas.width", 12,
)  # fmt: skip
NAMES = ("houlsby", "lora", "prefix")
KINDS = {
    "optimization": "optimization",
    "transfer": "transfer",
    "head optimization": "control: head of the optimized alone",
    "head transfer": "control: head of the transferred alone",
    "random optimization": "control: optimization, random decoders",
    "random transfer": "control: transfer, random decoders",
    "mean": "control: mean source point",
    "zero": "control: initial values",
}
SECONDS = {"original": 0.155, "one task": 0.23, "six tasks": 0.75, "coordinates": 0.036, "example": 0.0015}  # with bf16


@dataclass(frozen=True)
class Plan:
    """What is done.

    Args:
        data_dir: the folder that holds the tasks' folders.
        out_dir: where the runs go.
        model: the encoder.
        settings: which of `SETTINGS`.
        unseen: tasks that no subspace is made of.
        seeds: of initial values, projections, first points and order together.
        steps: updates of an original solution, of 16 examples.
        approximation: updates of a subspace, of 8 examples through three deltas.
        coordinates: updates of the coordinates, of 8 examples.
        max_dev: dev examples at most.
        max_test: test examples at most.
    """

    data_dir: Path
    out_dir: Path
    model: str
    settings: tuple[str, ...]
    unseen: tuple[str, ...]
    seeds: int
    steps: int
    approximation: int
    coordinates: int
    max_dev: int
    max_test: int

    @property
    def tasks(self) -> list[str]:
        """All tasks, sorted."""
        return sorted({*self.unseen, *(task for setting in self.settings for task in SETTINGS[setting])})

    def named(self, tasks: Sequence[str]) -> str:
        """Tasks as an option takes them: files that read the text-to-text format as labels."""
        return f"[{', '.join(str(self.out_dir / 'tasks' / f'{task}.yaml') for task in tasks)}]"

    def folder(self, seed: int, setting: str = "", what: str = "") -> Path:
        """The folder of a result."""
        return self.out_dir / f"seed-{seed}" / "-".join(part.replace(" ", "-") for part in (setting, what) if part)

    def commands(self, seed: int) -> Iterator[tuple[list[Any], list[Path], float]]:
        """Words of each command of a seed, the folders it fills, and an estimate of its seconds."""
        init, originals = self.folder(seed, what="init"), self.folder(seed, what="original")
        seeds = ["--data_seed", seed]
        cast = ["--data_dir", self.data_dir, "--precision", lean(), "--train.precision", lean()]
        parts = ["--max_dev", self.max_dev, "--max_test", self.max_test]
        words = ["make-init", "--model", self.model, *DELTAS, "--num_labels", 2, "--init_seed", seed]
        yield [*words, "--out_dir", init], [init], 5.0
        words = ["train-delta", "--init", init, "--tasks", self.named(self.tasks), *cast, *parts, *seeds]
        words += ["--train.steps", self.steps, "--train.eval_every", max(1, self.steps // 4), "--train.group_by_length", "true"]
        each = self.steps * SECONDS["original"] + (5 * self.max_dev + self.max_test) * SECONDS["example"]
        runs = [originals / task / name for task in self.tasks for name in NAMES]
        yield [*words, "--out_dir", originals], runs, each * len(runs)
        for setting in self.settings:
            space, results = self.folder(seed, setting, "subspace"), self.folder(seed, setting, "unseen")
            sources = SETTINGS[setting]
            words = ["approximate", "--init", init, "--solutions", f"[{originals}]", "--tasks", self.named(sources)]
            words += ["--k", K[setting], "--seed", seed, *seeds, "--data_dir", self.data_dir, "--precision", lean()]
            words += ["--mixtures", 0, "--dev_lines", 60, "--train.steps", self.approximation]
            words += ["--train.eval_every", max(1, self.approximation // 4)]
            scored = len(sources) * 3 * 4 * (60 * 2 + self.max_test) * SECONDS["example"]
            yield [*words, "--out_dir", space], [space], self.approximation * SECONDS[setting] + scored
            words = ["optimize", "--subspace", space, "--tasks", self.named(self.unseen), "--originals", originals]
            words += ["--seed", seed, *cast, *parts, *seeds, "--train.steps", self.coordinates]
            words += ["--train.eval_every", max(1, self.coordinates // 4)]
            run = self.coordinates * SECONDS["coordinates"] + (5 * self.max_dev + self.max_test) * SECONDS["example"]
            scored = (9 + 1) * 3 * (self.max_dev + self.max_test) * SECONDS["example"]
            yield [*words, "--out_dir", results], [results], len(self.unseen) * (3 * 2 * 2 * run + scored)


def main(
    data_dir: Path,
    out_dir: Path,
    model: str | None = None,
    settings: tuple[str, ...] = tuple(SETTINGS),
    unseen: tuple[str, ...] = UNSEEN,
    seeds: int = 3,
    steps: int = 200,
    approximation: int = 250,
    coordinates: int = 60,
    max_dev: int = 200,
    max_test: int = 400,
    table: Path | None = None,
    records: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Do what is not done yet, and print a table.

    Args:
        data_dir: the folder that holds the tasks' folders.
        out_dir: where the runs go.
        model: a model folder; by default the encoder of the test group.
        settings: which of 'one task' and 'six tasks'.
        unseen: tasks that no subspace is made of.
        seeds: how many.
        steps: updates of an original solution.
        approximation: updates of a subspace.
        coordinates: updates of the coordinates.
        max_dev: dev examples at most.
        max_test: test examples at most.
        table: also write the table to this file.
        records: also write the scores that it is made from to this file.
        dry_run: print the commands and the estimate only.
    """
    plan = Plan(
        data_dir, out_dir, model or encoder(), settings, unseen, seeds, steps, approximation, coordinates, max_dev, max_test
    )
    todo = [step for seed in range(seeds) for step in plan.commands(seed)]
    left = [(sum(not (path / "run.json").is_file() for path in folders) / len(folders), cost) for _, folders, cost in todo]
    finished, minutes = sum(share == 0 for share, _ in left), sum(share * cost for share, cost in left) / 60
    print(f"{len(todo)} steps, {finished} of them begun or finished; about {minutes:.0f} minutes for the others")
    if dry_run:
        for words, *_ in todo:
            print("deltatune-subspace", *words)
        return
    for task in plan.tasks:
        task_file(out_dir / "tasks", task)
    run_steps("deltatune-subspace", cli.main, [words for words, *_ in todo])
    found = [line for seed in range(seeds) for setting in settings for line in results(plan, seed, setting)]
    publish(found, rows(found), records, table)


def task_file(folder: Path, task: str) -> Path:
    """A file in `folder` that says how the second column of a task's text-to-text files is read as its label."""
    files = "".join(f"{part}: {task}_{part}.tsv\n" for part in ("train", "dev", "test"))
    shape = "reader: tsv\nheader: false\ntext_positions: [0]\nlabel_position: 1\nmetric: accuracy\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{task}.yaml", f"name: {task}\n{shape}folders: [{task}]\n{files}")
    return folder / f"{task}.yaml"


def results(plan: Plan, seed: int, setting: str) -> Iterator[dict[str, Any]]:
    """What is shown of one subspace: every test score, with what belongs to it."""
    init = checkpoint.read(plan.folder(seed, what="init") / NAMES[0])
    sizes = {name: tensor.numel() for name, tensor in init.weights.items()}
    about = {"values": sum(sizes.values()), "head_values": sum(sizes[name] for name in init.head), "base": init.base["digest"]}
    kept = ("kind", "source", "target", "metric", "value", "n", "original", "chance", "relative", "corrected")
    shares = {task: shared(plan, setting, task) for task in plan.unseen}
    for record in read_records(plan.folder(seed, setting, "unseen")):
        if record["split"] == "test":
            task = Path(record["task"]).stem
            numbers = {name: record[name] for name in kept}
            yield {"setting": setting, "k": record["k"], "seed": seed, "task": task, **numbers, "shared": shares[task], **about}


def shared(plan: Plan, setting: str, unseen: str) -> float:
    """The share of an unseen task's test texts that are also training texts of a source."""

    def load(task: str) -> Any:
        return load_task(plan.out_dir / "tasks" / f"{task}.yaml", plan.data_dir, max_test=plan.max_test)

    return overlap([example for task in SETTINGS[setting] for example in load(task).train], load(unseen).test)


def rows(found: list[dict[str, Any]]) -> str:
    """Scores of what was found and of the controls, then every source and target; mean (standard deviation) over seeds."""
    lines = [
        "| subspace of | unseen task | | score % | original % | chance % | relative % | counted from chance % | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cases = list(dict.fromkeys((line["setting"], line["k"], line["task"]) for line in found))
    for setting, k, task in cases:
        case = [line for line in found if (line["setting"], line["task"]) == (setting, task)]
        for kind, name in KINDS.items():
            own = [line for line in case if line["kind"] == kind]
            if own:
                numbers = [cell(own, "value", 100), cell(own, "original", 100), cell(own, "chance", 100)]
                numbers += [cell(own, "relative"), cell(own, "corrected"), str(len({line["seed"] for line in own}))]
                lines.append(f"| {' | '.join([f'{setting}, k = {k}', task, name, *numbers])} |")
    targets = list(dict.fromkeys(line["target"] for line in found))
    lines += ["", f"| subspace of | unseen task | source | {' | '.join(f'into {name}: relative %' for name in targets)} |"]
    lines.append(f"|---|---|---|{'---|' * len(targets)}")
    for setting, k, task in cases:
        for source in targets:
            case = [line for line in found if (line["setting"], line["task"], line["source"]) == (setting, task, source)]
            own = [line for line in case if line["kind"] in ("optimization", "transfer")]
            cells = [cell([line for line in own if line["target"] == name], "relative") for name in targets]
            lines.append(f"| {' | '.join([f'{setting}, k = {k}', task, source, *cells])} |")
    return "\n".join([*lines, "", *notes(found)]) + "\n"


def notes(found: list[dict[str, Any]]) -> Iterator[str]:
    """What the tables rest on."""
    values, head = found[0]["values"], found[0]["head_values"]
    yield (
        f"Each delta has {values:,} values, {head:,} of them the head's, which all three have in common: how much of a score is "
        "the head's alone stands in the rows of that control."
    )
    for setting, task, share in dict.fromkeys((line["setting"], line["task"], line["shared"]) for line in found):
        yield f"{100 * share:.1f}% of the test texts of {task} are also training texts of the source tasks ({setting})."


def cell(lines: Sequence[dict[str, Any]], name: str, scale: float = 1) -> str:
    """Mean over seeds of the mean of each seed, with the standard deviation where there are several; empty without values."""
    seeds: dict[int, list[float]] = {}
    for line in lines:
        if line[name] is not None:
            seeds.setdefault(line["seed"], []).append(scale * line[name])
    means = [statistics.mean(values) for values in seeds.values()]
    spread = f" ({statistics.stdev(means):.1f})" if len(means) > 1 else ""
    return f"{statistics.mean(means):.1f}{spread}" if means else ""


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
