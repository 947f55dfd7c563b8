"""Few-shot samples by the published procedures, as pure functions on labels.

Two procedures: `kshot` of LM-BFF (ACL 2021) and Delta Tuning (Nature Machine Intelligence 2023) for tab- and comma-separated
tasks, and `sample_by_class` of recyclable tuning (Findings of ACL 2023) for JSON lines. Both use numpy's legacy generator, whose
streams never change; with it the published files come out byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np

from deltatune.core.data.task import Task, build_task
from deltatune.core.errors import DeltatuneError

SEEDS = (100, 13, 21, 42, 87)
"""The seeds of the published samples, in the order of their making, which matters for CoLA (`shuffled_orders`)."""


class Sample(NamedTuple):
    """Row numbers (from 0) of a sample, in the order in which they are written."""

    train: list[int]
    dev: list[int]


def shuffled_orders(count: int, seeds: Sequence[int], *, chained: bool = False) -> dict[int, list[int]]:
    """For each seed, an order of `count` rows.

    Args:
        count: number of rows.
        seeds: any numbers from 0 to 2^32 - 1.
        chained: shuffle the order of the seed before instead of the file's. The published CoLA samples were made so, by a slip:
            they come out for the seeds `SEEDS` in this order.
    """
    orders: dict[int, list[int]] = {}
    order = list(range(count))
    for seed in seeds:
        order = list(order) if chained else list(range(count))
        _generator(seed).shuffle(order)
        orders[seed] = order
    return orders


def kshot(labels: Sequence[str | None], order: Sequence[int], k: int, *, dev_times: int = 1) -> Sample:
    """The first `k` rows of each label in `order` to train on, the next `k * dev_times` for development.

    Args:
        labels: label of each row, in file order; None leaves the row out.
        order: of the rows, see `shuffled_orders`.
        k: rows of each label.
        dev_times: how many times larger the development part is.

    Returns:
        Rows grouped by label, labels in the order of their first appearance in `order`; fewer rows of a label where there are no
        more.
    """
    groups: dict[str, list[int]] = {}
    for row in order:
        label = labels[row]
        if label is not None:
            groups.setdefault(label, []).append(row)
    train = [row for rows in groups.values() for row in rows[:k]]
    return Sample(train, [row for rows in groups.values() for row in rows[k : k + k * dev_times]])


def sample_by_class(train_labels: Sequence[str], dev_labels: Sequence[str], shot: int, seed: int) -> Sample:
    """At most `shot` rows of each class of the training and of the development file, in random order.

    One generator serves development first, then training. Classes come in the order of first appearance; a class of at most
    `shot` rows is taken whole without a draw, of a larger one the first `shot` of a random permutation; then all are shuffled
    together.
    """
    generator = _generator(seed)

    def drawn(labels: Sequence[str]) -> list[int]:
        groups: dict[str, list[int]] = {}
        for row, label in enumerate(labels):
            groups.setdefault(label, []).append(row)
        rows: list[int] = []
        for group in groups.values():
            rows += group if len(group) <= shot else [group[i] for i in generator.permutation(len(group))[:shot].tolist()]
        generator.shuffle(rows)
        return rows

    dev = drawn(dev_labels)
    return Sample(drawn(train_labels), dev)


def few_shots(task: Task, shots: int, seed: int) -> Task:
    """`task` with `shots` training and as many development examples of each class, all drawn from its training examples.

    Texts count as one class. Values count as two: below, and from the middle of the task's range up; where the range has no
    bounds, the median of the training values takes the place of the middle.

    Raises:
        DeltatuneError: a class has fewer than twice as many.
    """
    if shots < 1:
        raise DeltatuneError(f"--shots must be at least 1, got {shots}")
    classes = [str(example.label) for example in task.train]
    known = dict.fromkeys(classes)
    if task.regression is not None:
        values = [float(example.label or 0.0) for example in task.train]
        middle = sum(task.regression) / 2
        middle = middle if isfinite(middle) else float(np.median(values))
        known = dict.fromkeys((f"below {middle:g}", f"from {middle:g} up"))
        classes = [list(known)[value >= middle] for value in values]
    for name in known:
        if classes.count(name) < 2 * shots:
            raise DeltatuneError(
                f"--shots {shots}: class {name} of {task.name} has {classes.count(name)} examples, {2 * shots} are needed "
                "(as many again for development); lower --shots or add examples"
            )
    sample = kshot(classes, shuffled_orders(len(classes), [seed])[seed], shots)
    train, dev = (tuple(task.train[row] for row in rows) for rows in sample)
    return build_task(task.config, train, dev, task.test, [*task.notes, f"{shots} examples a class, sample seed {seed}"])


def _generator(seed: int) -> np.random.RandomState:
    if not 0 <= seed < 2**32:
        raise DeltatuneError(f"a sample's seed must be from 0 to {2**32 - 1}, got {seed}")
    return np.random.RandomState(seed)
