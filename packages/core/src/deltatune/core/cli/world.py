"""`deltatune world`: look at the tasks of the built-in world, and write them as files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.table import Table

from deltatune.core import world, world_models
from deltatune.core.cli.output import output
from deltatune.core.cli.parsing import split_names
from deltatune.core.data import Example, Task, as_text
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.template import Lengths, Template
from deltatune.core.world.export import Layout, export_task
from deltatune.core.world.names import kind_and_domain


def list_() -> None:
    """List the tasks of the built-in world; `--task world/NAME` takes each wherever a task is asked for."""
    table = Table("task", "domain", "examples", "metric", "labels")
    for name in world.TASKS:
        task = world.task(name)
        labels = ", ".join(task.labels) or "from {:g} to {:g}".format(*(task.regression or (0, 0)))
        sizes = " / ".join(str(len(split)) for split in (task.train, task.dev, task.test))
        table.add_row(task.name, kind_and_domain(name)[1], sizes, task.metric, labels)
    output().print(table)


def show(
    task: str,
    n: int = 5,
    form: Literal["head", "prompt", "text"] = "head",
    split: Literal["train", "dev", "test"] = "train",
) -> None:
    """Print examples of a task of the built-in world; the name may stand alone: `deltatune world show sentiment-1`.

    Args:
        task: such as sentiment-1; `deltatune world list` has all.
        n: how many examples, the first of the split.
        form: as a classification head reads them, as a prompt with a mask asks them, or as text to text.
        split: from which split.
    """
    if n < 1:
        raise DeltatuneError(f"--n must be at least 1, got {n}")
    found = world.task(task)
    for example in getattr(found, split)[:n]:
        output().print(" | ".join(_shown(found, example, form)), soft_wrap=True)


def _shown(task: Task, example: Example, form: str) -> tuple[str, ...]:
    if form == "text":
        source, answers = as_text(task, example)
        return example.id, source, *answers
    if form == "head":
        return example.id, str(example.label), *example.texts
    tokenizer = world.tokenizer("head")
    encoded = Template.parse(str(task.config.template)).encode(example.texts, tokenizer, Lengths(max_length=512))
    words = task.config.label_words
    answer = words.get(str(example.label)) or f"{example.label} from {' to '.join(words.values())}"
    return example.id, answer, str(tokenizer.decode(encoded.input_ids))


def export(format: Layout, out_dir: Path, task: list[str] | None = None, overwrite: bool = False) -> None:
    """Write tasks of the built-in world as files, OUT_DIR/TASK/, each with a task.yaml that --task takes.

    Args:
        format: glue (tables with header), gym (input and answer between tabs) or jsonl (objects).
        out_dir: the folder of task folders.
        task: names of tasks ([sentiment-1,topic-2]); by default all.
        overwrite: replace folders that hold something else.
    """
    for name in task or world.TASKS:
        output().print(export_task(world.task(name), format, out_dir, overwrite), soft_wrap=True)


def models() -> None:
    """List the models of the built-in world; `--model world/NAME` takes each, NAME@STEP its snapshots, NAME@0 its start."""
    catalog = read_json(world_models.CATALOG)
    table = Table("model", "form", "continues", "text", "parameters", "snapshots")
    for name, row in catalog.items():
        text = ", ".join(f"{share:.0%} {domain}" for domain, share in row["mix"].items() if share)
        steps = sorted(int(path.name.removeprefix("ckpt_")) for path in (world_models.SHELF / name).glob("ckpt_*"))
        table.add_row(f"world/{name}", row["form"], row["start"] or "", text, f"{row['parameters']:,}", " ".join(map(str, steps)))
    output().print(table)


def rebuild(only: str | None = None, out_dir: Path = Path("runs/world")) -> None:
    """Make models or deltas of the built-in world again and compare them with those of the package.

    Models that continue one that is not made again start from the package's, and so do deltas. Results are equal on a machine
    like the one that made them; on another the scores are compared.

    Args:
        only: names, separated by commas: m0,m1,deltas/aspect-1/LoRA; by default all models, and `deltas` are all deltas.
        out_dir: the folder of the new ones; what is made there already is not made again.
    """
    from deltatune.core.world_build import RECIPES, build, compared
    from deltatune.core.world_deltas import build_delta, compared_delta, delta_names

    wanted = [name for part in split_names(only) or RECIPES for name in (delta_names() if part == "deltas" else [part])]
    if unknown := [name for name in wanted if name not in RECIPES and name not in delta_names()]:
        there = f"there are {', '.join(RECIPES)}, and deltas/TASK/KIND"
        raise DeltatuneError(f"--only {only}: no model or delta {unknown[0]} of the world; {there}")
    for name in wanted:
        if name in RECIPES:
            line = compared(name, build(name, out_dir, world_models.SHELF))
        else:
            _, task, kind = name.split("/")
            build_delta(task, kind, out_dir / "deltas")
            line = compared_delta(task, kind, out_dir / "deltas")
        output().print(line, soft_wrap=True)
