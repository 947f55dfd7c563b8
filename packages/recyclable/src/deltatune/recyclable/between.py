"""The straight line between two tuned models, on one base or on two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deltatune.core.backbone import Device
from deltatune.core.data import Task
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate
from deltatune.core.formats import Format
from deltatune.core.paths import End, end_of, walk
from deltatune.core.reuse import TunedRun
from deltatune.recyclable.paths import Point
from deltatune.recyclable.tokenizers import compare, require_readable


@dataclass(frozen=True)
class Ends:
    """A model at the left end, with both ends of its path."""

    tuned: Tuned
    form: Format
    task: Task
    left: End
    right: End


def ends_between(
    runs: tuple[TunedRun, TunedRun], models: tuple[str | None, str | None], task: Task, whole: bool, device: Device
) -> Ends:  # fmt: skip
    """Take two runs of one task up as the ends of a path.

    Args:
        runs: left and right.
        models: where their bases are now; None for where the runs found them.
        task: whose examples are scored.
        whole: base, delta and head move together; otherwise delta and head move on the left base.
        device: where to compute.

    Raises:
        DeltatuneError: the heads know other labels, or the bases read texts as other tokens.
    """
    backbone = runs[0].backbone(models[0], device)
    form = runs[0].format(backbone, task)
    if runs[1].labels != runs[0].labels:
        raise DeltatuneError(f"{runs[1].path}: its head knows other labels than that of {runs[0].path}; take runs of one task")
    if not whole:
        tuned = runs[0].attach(backbone)
        left = end_of(tuned)
        tuned.load(runs[1].saved.weights)
        right = end_of(tuned)
        tuned.load(runs[0].saved.weights)
        return Ends(tuned, form, task, left, right)
    other = runs[1].backbone(models[1], "cpu")
    if backbone.tokenizer is not None and other.tokenizer is not None:
        require_readable(compare(backbone.tokenizer, other.tokenizer), other.name)
    right = end_of(runs[1].attach(other), with_base=True)
    del other
    tuned = runs[0].attach(backbone)
    return Ends(tuned, form, task, end_of(tuned, with_base=True), right)


def measure(found: Ends, places: Sequence[float], max_dev: int | None, max_test: int | None) -> list[Point]:
    """Loss and score on dev and test at each of `places`; 0 examples leave a split out.

    Raises:
        DeltatuneError: no examples.
    """
    parts = {"dev": found.task.dev[:max_dev], "test": found.task.test[:max_test]}
    encoded = {split: found.form.features(part) for split, part in parts.items() if part}
    if not encoded:
        raise DeltatuneError(f"task {found.task.name} has neither dev nor test examples to score a path on")

    def numbers_here() -> dict[str, float]:
        numbers: dict[str, float] = {}
        for split, features in encoded.items():
            scores = evaluate(found.tuned, found.form, parts[split], features)
            numbers |= {f"{split}_performance": scores.value, f"{split}_loss": scores.loss}
        return numbers

    return [Point(**row) for row in walk(found.tuned, [found.left, found.right], places, numbers_here)]
