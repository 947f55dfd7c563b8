"""`deltatune evaluate` and `deltatune predict`: use a run that is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from deltatune.core import world_models
from deltatune.core.backbone import Backbone, Device
from deltatune.core.checkpoint import base_record
from deltatune.core.cli.output import output, write_data
from deltatune.core.cli.tune import add_rows
from deltatune.core.data import Example
from deltatune.core.data.readers import read_lines
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate as score
from deltatune.core.evaluation import run as answer
from deltatune.core.files import require_writable, write_text
from deltatune.core.reuse import TunedRun, open_run
from deltatune.core.run import append_records


def evaluate(
    run: Path,
    split: Literal["train", "dev", "test"] = "test",
    model: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    other_base: bool = False,
    device: Device = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    max_examples: int | None = None,
    predictions: Path | None = None,
    whole: bool = False,
    sites: Path | None = None,
) -> None:
    """Score a run on a split of its task, and add a line to its records (not to those of a delta of the built-in world).

    The examples are those of the run: its --shots, --max_dev and --max_test hold here too, unless --whole is given.

    Args:
        run: a run, RUN@STEP for a snapshot, or a delta folder.
        split: which examples.
        model: another base model than the run's; needs --other_base unless its weights are the same.
        task: another task than the run's; with the same labels, if the run has a head.
        data_dir: where the task's files are now, if not where they were.
        other_base: allow a base with another digest.
        device: where to compute.
        precision: fp32 or bf16; the run's own by default.
        max_examples: use the first N examples of the split.
        predictions: also write one JSON line for each example here.
        whole: use all examples of the split, not the run's sample of them.
        sites: YAML record of the base's architecture; the one that the run was tuned with by default.
    """
    if max_examples is not None and max_examples < 1:
        raise DeltatuneError(f"--max_examples must be at least 1, got {max_examples}")
    if predictions is not None:
        require_writable(predictions)
    opened = open_run(run)
    choice = opened.task_choice(task, data_dir, whole)
    loaded = choice.load()
    backbone = opened.backbone(model, device, precision, sites)
    form = opened.format(backbone, loaded)
    tuned = opened.attach(backbone, other_base)
    examples = list(getattr(loaded, split))[:max_examples]
    if not examples:
        raise DeltatuneError(f"task {choice.task} has no {split} examples; choose another --split")
    scores = score(tuned, form, examples)
    numbers = scores.numbers()
    if predictions is not None:
        lines = (
            json.dumps({"id": example.id, "prediction": form.name_of(found)}, ensure_ascii=False)
            for example, found in zip(examples, scores.predictions, strict=True)
        )
        write_text(predictions, "".join(line + "\n" for line in lines))
    sample = {"data_digest": loaded.digest, "shots": choice.shots, "sample_seed": choice.sample_seed}
    _keep(opened, {"kind": "evaluation", "task": choice.task, "split": split, **sample, **_where(opened, backbone), **numbers})
    if task is None and not whole and (note := opened.note_on(loaded)) is not None:
        output(error=True).print(f"note: {note}", soft_wrap=True)
    table = Table("split", "metric", "value", "standard error", "loss", "examples")
    add_rows(table, split, numbers)
    output().print(table)


def _keep(opened: TunedRun, record: dict[str, Any]) -> None:
    """Add a line to the run's records; the deltas that come with the package are everyone's and stay as they are."""
    if not opened.folder.resolve().is_relative_to(world_models.DELTAS.resolve()):
        append_records(opened.folder / "records.jsonl", [record])


def _where(opened: TunedRun, backbone: Backbone) -> dict[str, Any]:
    """For a record: which delta on which base, and the base that it was tuned on."""
    about = {"delta": str(opened.path), "delta_digest": opened.saved.digest}
    return about | {"base": base_record(backbone), "tuned_on": opened.saved.base}


def predict(
    run: Path,
    input: Path,
    output: Path | None = None,
    model: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    other_base: bool = False,
    device: Device = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    sites: Path | None = None,
) -> None:
    """Predict the examples of a JSON-lines file, and add a line to the run's records.

    Each line is an object with "text", or "text" and "text2" for a pair, or with the task's own columns. The output has the
    same lines with "prediction" added.

    Args:
        run: a run, RUN@STEP for a snapshot, or a delta folder.
        input: the file.
        output: where to write; the terminal by default.
        model: another base model than the run's.
        task: the task, if the run does not say it.
        data_dir: where the task's files are now, if not where they were.
        other_base: allow a base with another digest.
        device: where to compute.
        precision: fp32 or bf16; the run's own by default.
        sites: YAML record of the base's architecture; the one that the run was tuned with by default.
    """
    rows = _read_rows(input)
    if output is not None:
        require_writable(output)
    opened = open_run(run)
    backbone = opened.backbone(model, device, precision, sites)
    choice = opened.task_choice(task, data_dir)
    loaded = choice.load()
    form = opened.format(backbone, loaded)
    tuned = opened.attach(backbone, other_base)
    columns, count = loaded.config.texts, len(loaded.train[0].texts)
    examples = [Example(_texts(item, place, columns, count), label=None) for place, item in rows]
    found, _ = answer(tuned, form, form.features(examples))
    lines = [
        json.dumps({**item, "prediction": form.name_of(value)}, ensure_ascii=False)
        for (_, item), value in zip(rows, found, strict=True)
    ]
    text = "".join(line + "\n" for line in lines)
    files = {"input": str(input), "output": None if output is None else str(output)}
    record = {"kind": "prediction", "task": choice.task, **files, **_where(opened, backbone), "n": len(examples)}
    if output is None:
        write_data(text)
    else:
        write_text(output, text)
    _keep(opened, record)


def _read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects in a JSON-lines file, each with its place."""
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        place = f"{path} line {number}"
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise DeltatuneError(f"{place}: not JSON ({error.msg})") from error
        if not isinstance(item, dict):
            raise DeltatuneError(f'{place}: not an object; write one like {{"text": "..."}} a line')
        rows.append((place, item))
    if not rows:
        raise DeltatuneError(f'{path} holds no examples; write one object like {{"text": "..."}} a line')
    return rows


def _texts(item: dict[str, Any], place: str, columns: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The `count` texts of a row: under the names of the task's `columns`, or under common ones."""
    for names in (columns, ("text", "text2"), ("sentence1", "sentence2"), ("sentence",)):
        if len(names) >= count and all(isinstance(item.get(name), str) for name in names[:count]):
            return tuple(item[name] for name in names[:count])
    wanted = " and ".join(f'"{name}"' for name in ("text", "text2")[:count])
    raise DeltatuneError(f"{place}: no {wanted} with a text in it, as the task needs; keys are {', '.join(item) or 'missing'}")
