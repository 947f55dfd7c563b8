"""The experiments behind the claims: what one seed measures."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

from deltatune.core.claims import Context, Effects
from deltatune.subspace.claims.further import chance_cells, excess
from deltatune.subspace.claims.measured import (
    ALIKE,
    CONTROLS,
    ENCODER,
    MANY,
    NAMES,
    OTHER,
    SAME,
    UNSEEN,
    Records,
    Setup,
    above_chance,
    beside,
    mean,
    solved,
    unseen,
)

ONE, ON_ENCODER = Setup(), Setup(base=ENCODER)
SEVERAL = Setup(MANY, k=16, updates=400, objective=replace(ONE.objective, draw="task"), lines=200)
DIMENSIONS = (1, 2, 4, 8, 16, 32)


def optimization(context: Context, seed: int, setup: Setup = ONE) -> Effects:
    """C1."""
    records = unseen(context, setup, SAME, seed)
    return Effects(mean(records, "optimization"), beside(records), solved(records), records)


def transfer(context: Context, seed: int, setup: Setup = ONE) -> Effects:
    """C2."""
    records = unseen(context, setup, SAME, seed)
    controls = beside(records, "transfer") | {"directions": above_chance(records)}
    return Effects(mean(records, "transfer"), controls, solved(records), records)


def cost_of_transfer(context: Context, seed: int, setup: Setup = ONE) -> Effects:
    """C3."""
    records = unseen(context, setup, SAME, seed)
    gap = mean(records, "optimization") - mean(records, "transfer")  # every target occurs equally often in both
    return Effects(gap, beside(records, "transfer"), solved(records), records)


def many_tasks(context: Context, seed: int) -> Effects:
    """C4."""
    records = unseen(context, SEVERAL, UNSEEN, seed)
    controls = beside(records) | {"transfer": mean(records, "transfer")}
    controls["random_transfer"] = mean(records, "transfer") - mean(records, "random transfer")
    return Effects(mean(records, "optimization"), controls, solved(records), records)


def more_sources(context: Context, seed: int) -> Effects:
    """C5. Of three sources one is of each unseen task's kind; of a single source it is one in the mean over the three."""
    eight, three = unseen(context, SEVERAL, UNSEEN, seed), unseen(context, replace(SEVERAL, sources=MANY[:3]), UNSEEN, seed, ())
    alone = [unseen(context, replace(SEVERAL, sources=(task,)), UNSEEN, seed, ()) for task in MANY[:3]]
    values = {
        1: fmean(mean(records, "optimization") for records in alone),
        3: mean(three, "optimization"),
        8: mean(eight, "optimization"),
    }
    controls = {"steps": min(values[3] - values[1], values[8] - values[3]), **beside(eight)}
    return Effects(values[8] - values[1], controls, solved(eight), [{"sources": n, "relative": v} for n, v in values.items()])


def relatedness(context: Context, seed: int) -> Effects:
    """C6."""
    same, other = unseen(context, ONE, SAME, seed), unseen(context, ONE, OTHER, seed)
    gap = mean(same, "optimization") - mean(other, "optimization")
    return Effects(gap, beside(same), solved([*same, *other]), [*same, *other])


def _of_k(context: Context, k: int, seed: int) -> Records:
    return unseen(context, replace(ONE, k=k), ALIKE, seed, CONTROLS if k == ONE.k else ())


def small_k(context: Context, seed: int) -> Effects:
    """C7."""
    four, many = (_of_k(context, k, seed) for k in (4, 32))
    gap = mean(many, "optimization") - mean(four, "optimization")
    return Effects(gap, beside(four), solved(four))


def smaller_k(context: Context, seed: int) -> Effects:
    """C7-more."""
    found = {k: _of_k(context, k, seed) for k in DIMENSIONS}
    values = {k: mean(records, "optimization") for k, records in found.items()}
    records = [{"k": k, "relative": value, "transfer": mean(found[k], "transfer")} for k, value in values.items()]
    return Effects(values[4] - values[1], beside(found[4]), solved(found[4]), records)


def order_of_targets(context: Context, seed: int, setup: Setup = ONE) -> Effects:
    """C8."""
    records = unseen(context, setup, SAME, seed)
    adapter, lora, prefix = (mean(records, "transfer", target=name) for name in NAMES)
    controls = beside(records, "transfer") | {"adapter_lora": adapter - lora, "lora_prefix": lora - prefix}
    return Effects(adapter - prefix, controls, solved(records), records)


def failures(context: Context, seed: int) -> Effects:
    """C9."""
    records = unseen(context, ONE, (*SAME, *OTHER), seed)
    cells = chance_cells(records)
    tasks = {f"world/{task}" for task in OTHER}
    mainly = [cell for cell in cells if cell["target"] == "prefix" or cell["source"] == "prefix" or cell["task"] in tasks]
    # What the same share would be if failing had nothing to do with either.
    every = [r for r in records if r["kind"] in ("optimization", "transfer")]
    expected = fmean(r["target"] == "prefix" or r["source"] == "prefix" or r["task"] in tasks for r in every)
    share = 100 * len(mainly) / len(cells) if cells else 0.0
    controls = beside(records) | {"expected": share - 100 * expected}
    return Effects(share, controls, {**solved(records), "cells": len(cells)}, records)


def above_original(context: Context, seed: int) -> Effects:
    """C10."""
    records = unseen(context, ONE, SAME, seed)
    share, significant = excess(records)
    return Effects(share, beside(records) | {"significant": significant}, solved(records), records)


def _without(name: str) -> Setup:
    """A subspace without mixing, without the task loss, or without reconstruction."""
    changed: dict[str, dict[str, Any]] = {
        "mixing": {"mixing": "own"},
        "task": {"terms": "reconstruction"},
        "reconstruction": {"terms": "task"},
    }
    return replace(ONE, objective=replace(ONE.objective, **changed[name]))


def mixing(context: Context, seed: int) -> Effects:
    """C11."""
    mixed = unseen(context, ONE, ALIKE, seed)
    others = [unseen(context, _without(name), ALIKE, seed, ()) for name in ("mixing", "task")]
    effect, apart = (mean(mixed, kind) - max(mean(records, kind) for records in others) for kind in ("transfer", "optimization"))
    controls = beside(mixed, "transfer") | {"optimization": effect - apart}
    names = ("mixed", "own points", "reconstruction alone")
    records = [
        {"way": name, **{kind: mean(own, kind) for kind in ("transfer", "optimization")}}
        for name, own in zip(names, (mixed, *others), strict=True)
    ]
    return Effects(effect, controls, solved(mixed), records)


def reconstruction(context: Context, seed: int) -> Effects:
    """C11-task."""
    both, alone = unseen(context, ONE, ALIKE, seed), unseen(context, _without("reconstruction"), ALIKE, seed, ())
    gain = mean(both, "transfer") - mean(alone, "transfer")
    return Effects(gain, beside(both, "transfer"), solved(both), [*both, *alone])
