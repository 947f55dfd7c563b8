"""What a run will take, measured on a few updates of the real model on the real examples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from deltatune.core.data import Example
from deltatune.core.delta import Tuned
from deltatune.core.evaluation import evaluate
from deltatune.core.formats import Format
from deltatune.core.train import Hooks
from deltatune.core.tune_config import TuneConfig
from deltatune.core.tuning import prepare, tune_prepared

SECONDS = 2.0  # about how long updates are timed
FEWEST, MOST, SCORED = 3, 30, 64  # updates that are timed, and examples of which the scoring is


@dataclass(frozen=True)
class Estimate:
    """What one run will take.

    Args:
        seconds: loading, training, evaluations on dev and the final scores; early stopping may make it less.
        updates: of the whole run.
        delta_bytes: of the delta folder, float32 tensors.
        snapshots: how many more of such folders the run leaves.
        state_bytes: besides, until the run ends: the state that it would go on from.
    """

    seconds: float
    updates: int
    delta_bytes: int
    snapshots: int
    state_bytes: int


def estimate(config: TuneConfig, threads: int | None = None) -> Estimate:
    """Prepare the run, time some updates and the scoring of some examples, and extrapolate to all of them.

    The updates are the first ones of the run, after one that warms up; the examples are spread evenly over dev, or test. A
    text-to-text model that is not tuned yet may write longer answers than a tuned one.

    Args:
        config: the run.
        threads: of torch, while it is measured; those it has by default.

    Raises:
        DeltatuneError: the run could not begin.
    """
    with _threads(threads):
        began = time.perf_counter()
        tuned, form, task = prepare(config)
        features = form.features(task.train)
        loading = time.perf_counter() - began
        per_epoch = config.train.batches(features, form.collate).per_epoch(config.train.accumulation)
        updates = config.train.total(per_epoch)

        def train(steps: int) -> float:
            timed = replace(config.train, steps=steps, epochs=None, select="last", eval_every=steps + 1, snapshots=None)
            alone = replace(task, dev=(), test=())
            return tune_prepared(replace(config, train=timed), tuned, form, alone, Hooks(progress=False)).history.seconds

        train(1)  # the first update also loads kernels
        first = train(FEWEST) / FEWEST
        steps = min(MOST, updates, round(SECONDS / first))
        update = train(steps) / steps if steps > FEWEST else first
        example = _seconds_per_example(tuned, form, task.dev or task.test)
    every = config.train.eval_every or min(per_epoch, updates)
    scored = len(task.dev) * (updates // every + 1) + len(task.test)
    tensors = sum(tensor.numel() for tensor in tuned.weights().values())
    trained = sum(tensor.numel() for tensor in tuned.parameters_by_name().values())
    kept = 1 + (config.train.select == "best") + (2 if config.train.optimizer.name == "adamw" else 1)
    return Estimate(
        seconds=loading + updates * update + scored * example,
        updates=updates,
        delta_bytes=4 * tensors,
        snapshots=sum(config.train.snapshot_at(step) for step in range(1, updates + 1)) if config.train.snapshots else 0,
        state_bytes=4 * trained * kept,
    )


def _seconds_per_example(tuned: Tuned, form: Format, examples: Sequence[Example]) -> float:
    if not examples:
        return 0.0
    evaluate(tuned, form, examples[:1])  # the first scoring also loads the metric's libraries
    some = [examples[i * len(examples) // SCORED] for i in range(SCORED)] if len(examples) > SCORED else examples
    began = time.perf_counter()
    evaluate(tuned, form, some)
    return (time.perf_counter() - began) / len(some)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
