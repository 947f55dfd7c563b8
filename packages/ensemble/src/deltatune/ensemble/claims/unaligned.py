"""Sources whose hidden units do not stand in one order: from initial values of their own, or shuffled afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deltatune.core.claims import Context
from deltatune.core.run import plain
from deltatune.ensemble.claims import bench
from deltatune.ensemble.claims.bench import Kind, source

if TYPE_CHECKING:
    from deltatune.ensemble.sources import Source

DOWN, UP = ".houlsby_down.weight", ".houlsby_up.weight"


def tuned_apart(context: Context, kind: Kind) -> dict[str, Source]:
    """`bench.FEW` by the recipe of the sources that come with the world, each from initial values of its own.

    They are tuned once: like the sources themselves they are the same for every seed.
    """
    return {name: source(name, _apart(context, kind, name, number) / "delta") for number, name in enumerate(bench.FEW, start=1)}


def _apart(context: Context, kind: Kind, name: str, init_seed: int) -> Path:
    from deltatune.core import checkpoint, world_build
    from deltatune.core.evaluation import evaluate
    from deltatune.core.train import Hooks
    from deltatune.core.tuning import prepare, tune_prepared

    config = replace(world_build.source_config(name, kind), init_seed=init_seed)

    def make(folder: Path) -> None:
        tuned, form, task = prepare(config)
        result = tune_prepared(config, tuned, form, replace(task, dev=(), test=()), Hooks(progress=False))
        scores = evaluate(tuned, form, task.test).numbers()
        checkpoint.save(folder / "delta", tuned, {"task": config.task.task, "scores": {"test": scores}}, result.weights)

    return context.store.folder({"tuned apart": plain(config.identity())}, make)


def with_units_shuffled(one: Source, seed: int) -> Source:
    """The same function of the input, its hidden units in another order in every adapter."""
    generator = torch.Generator().manual_seed(seed)
    weights = dict(one.saved.weights)
    for name in one.saved.weights:
        if name.endswith(DOWN):
            up = name.removesuffix(DOWN) + UP
            order = torch.randperm(len(weights[name]), generator=generator)
            weights[name], weights[up] = weights[name][order], weights[up][:, order]
    return replace(one, saved=replace(one.saved, weights=weights))
