"""Experiments of single claims: cells at chance, cells above the original, the common region, fine-tuning as a fourth delta."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import torch

from deltatune.core.claims import Context, Effects
from deltatune.core.formats import build_format
from deltatune.core.loading import load_backbone
from deltatune.subspace import space as spaces
from deltatune.subspace.approximation import score_points
from deltatune.subspace.claims.measured import (
    SAME,
    SOURCE,
    Records,
    Setup,
    beside,
    mean,
    solved,
    subspace,
    unseen,
)
from deltatune.subspace.landscape import flat, summary, triangle
from deltatune.subspace.relative import at_chance
from deltatune.subspace.views import attach_each

RESOLUTION = 6


def chance_cells(records: Records) -> Records:
    """The optimized and transferred solutions whose score, a share of examples, is no better than chance."""
    return [
        record
        for record in records
        if record["kind"] in ("optimization", "transfer") and at_chance(record["value"], record["chance"], record["n"])
    ]


def excess(records: Records) -> tuple[float, float]:
    """Share in percent of the cells above their original, and of those above it by more than their errors explain.

    Both scores are on the same examples, so their errors taken as independent are too large: the second share errs downwards.
    """
    cells = [r for r in records if r["kind"] in ("optimization", "transfer") and r["original"] is not None]
    above = [r["value"] > r["original"] for r in cells]
    errors = [((r["stderr"] or 0.0) ** 2 + r["original"] * (1 - r["original"]) / max(1, r["n"])) ** 0.5 for r in cells]
    clear = [r["value"] - r["original"] > 1.96 * error for r, error in zip(cells, errors, strict=True)]
    return 100 * fmean(above), 100 * fmean(clear)


def region(context: Context, seed: int) -> Effects:
    """C12: the triangle of the source task's own points, with each delta's map."""
    setup = Setup()
    cells = unseen(context, setup, SAME, seed)
    settings = {"subspace": "triangle", **setup.identity(), "resolution": RESOLUTION, "seed": seed}
    records: Records = context.store.get(settings, lambda: _triangle(context, setup, seed))
    found: dict[str, Any] = summary(records, "test")
    pairs = [value if value is not None else 0.0 for value in found["correlations"].values()]
    controls = beside(cells) | {"correlation": fmean(pairs)}
    return Effects(100 * found["common_region"], controls, solved(cells), records)


def _triangle(context: Context, setup: Setup, seed: int) -> Records:
    space = spaces.read(subspace(context, setup, seed))
    task, backbone = setup.task(SOURCE).load(), load_backbone(setup.backbone())
    own, form = space.points[f"world/{SOURCE}"][0], build_format(backbone, task)
    places = {str(number): shares for number, shares in enumerate(triangle(RESOLUTION))}
    points = {name: torch.tensor(shares) @ own for name, shares in places.items()}
    return [
        {"x": flat(places[place])[0], "y": flat(places[place])[1], "delta": name, "split": "test", **scores.numbers()}
        for place, name, scores in score_points(space, attach_each(backbone, space.configs), form, task.test, points)
    ]


def fine_tuning(context: Context, seed: int) -> Effects:
    """C13: the difference of the normalisation weights as a fourth delta of stage 1."""
    records = unseen(context, replace(Setup(), norms=True), SAME, seed)
    fourth = [r for r in records if r["kind"].endswith("transfer") and "modules" in (r["source"], r["target"])]
    into, out = mean(fourth, "transfer", target="modules"), mean(fourth, "transfer", source="modules")
    value = mean(fourth, "transfer")
    beyond = [into - mean(fourth, "random transfer", target="modules"), out - mean(fourth, "random transfer", source="modules")]
    controls = {
        "random": min(beyond),
        "zero": value - mean(records, "zero"),
        "mean_point": value - mean(records, "mean"),
        "chance": mean(fourth, "transfer", "value") - mean(fourth, "transfer", "chance"),
    }
    return Effects(min(into, out), controls, solved(records), records)
