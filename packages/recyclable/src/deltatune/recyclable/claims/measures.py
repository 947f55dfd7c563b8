"""What is read off two tuned models: the path between them, what their heads look at, how far apart they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deltatune.core.claims import Context, SharedRun

if TYPE_CHECKING:
    from torch import Tensor

    from deltatune.core.delta import Tuned
    from deltatune.core.formats import Format

POINTS, ON_PATH = 26, 120  # places as published; test examples at each
TEXTS = 64  # that attention is compared on
MEASURES: dict[str, Any] = {"points": POINTS, "on_path": ON_PATH, "texts": TEXTS}


def path(context: Context, left: SharedRun, right: SharedRun) -> dict[str, Any]:
    """The straight line between two tuned models, bases, deltas and heads together, on test.

    Returns:
        `x`, `loss` and `value` of each place, and `barrier` of the loss (nats) and `drop` of the score (points).
    """
    key = {"path": [left.facts["config"], right.facts["config"]], "points": POINTS, "test": ON_PATH}

    def make() -> dict[str, Any]:
        from deltatune.core.paths import barrier, drop, grid
        from deltatune.core.reuse import open_run
        from deltatune.recyclable.between import ends_between, measure

        runs = open_run(left.path), open_run(right.path)
        found = ends_between(runs, (None, None), runs[0].task_choice().load(), True, "cpu")
        rows = measure(found, grid(POINTS), 0, ON_PATH)
        xs, losses = [row.x for row in rows], [float(row.test_loss or 0.0) for row in rows]
        values = [100 * float(row.test_performance or 0.0) for row in rows]
        return {"x": xs, "loss": losses, "value": values, "barrier": barrier(xs, losses), "drop": drop(xs, values)}

    kept: dict[str, Any] = context.store.get(key, make)
    return kept


def attention_alike(context: Context, left: SharedRun | str, right: SharedRun | str, task: str, seed: int) -> dict[str, float]:
    """Mean correlation of two models' attention heads on the same texts.

    Args:
        context: of the experiment.
        left: a run, or the name of a model that nobody tuned.
        right: another.
        task: whose dev texts.
        seed: of the draw of the texts.

    Returns:
        `same`: of heads of one layer and number; `best`: of heads of one layer that are paired so that the mean is greatest,
        since the numbers of heads say nothing where two models come from different initial values.
    """
    names = [end if isinstance(end, str) else end.facts["config"] for end in (left, right)]
    found: dict[str, float] = context.store.get(
        {"attention": names, "texts": TEXTS, "task": task, "seed": seed}, lambda: _alike(left, right, task, seed)
    )
    return found


def _alike(left: SharedRun | str, right: SharedRun | str, task: str, seed: int) -> dict[str, float]:
    import numpy as np
    import torch
    from scipy.optimize import linear_sum_assignment

    from deltatune.core.data import load_task
    from deltatune.core.formats import build_format
    from deltatune.core.probes import attention
    from deltatune.recyclable.similarity import HeadCorrelation

    sides = [_attached(end) for end in (left, right)]
    form: Format = build_format(sides[0].backbone, load_task(task, None), 256)
    dev = form.task.dev
    drawn = np.random.default_rng(seed).choice(len(dev), TEXTS, replace=False)
    batch = form.collate(form.features([dev[number] for number in drawn]))
    ours, theirs = (attention(side, batch) for side in sides)
    heads = ours[0].shape[1]
    turned = []
    for turn in range(heads):
        pairs = HeadCorrelation()
        pairs.add(ours, [layer.roll(-turn, dims=1) for layer in theirs], batch["attention_mask"])
        turned.append(pairs.result().nan_to_num())
    table: Tensor = torch.stack(turned, dim=-1)  # (layer, head, turn): with head (head + turn) of the other
    numbers = torch.arange(heads)
    table = table.gather(2, (numbers[None, :] - numbers[:, None]).remainder(heads).expand(len(table), -1, -1))
    best = [layer[linear_sum_assignment(layer.numpy(), maximize=True)].mean() for layer in table]
    return {"same": float(table.diagonal(dim1=1, dim2=2).mean()), "best": float(torch.stack(best).mean())}


def _attached(end: SharedRun | str) -> Tuned:
    from deltatune.core.backbone import BackboneConfig
    from deltatune.core.delta import attach
    from deltatune.core.loading import load_backbone
    from deltatune.core.reuse import open_run

    if isinstance(end, str):
        return attach(load_backbone(BackboneConfig(end, form="head", device="cpu"), num_labels=2))
    opened = open_run(end.path)
    return opened.attach(opened.backbone(device="cpu"))


def base_distance(left: str, right: str) -> float:
    """L2 between two bases, floating parameters without the head."""
    from deltatune.core.backbone import BackboneConfig, base_tensors
    from deltatune.core.loading import load_backbone
    from deltatune.core.weights import distance

    loaded = [load_backbone(BackboneConfig(name, form="prompt", device="cpu")) for name in (left, right)]
    ends = [dict(base_tensors(backbone.model, backbone.sites)) for backbone in loaded]
    return sum(distance(ends[0], ends[1]).values())
