"""Experiments on what an upgraded base has in common with the old one: C1 to C5."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from deltatune.core.claims import Context, Effects, SharedRun
from deltatune.recyclable.claims import bench
from deltatune.recyclable.claims.bench import (
    ASPECT,
    FAR,
    NEW,
    OLD,
    OTHER,
    OTHERS,
    STAGES,
    Arm,
    Kind,
    Numbers,
    applied,
    need_models,
    outdated,
    randomized,
    solved,
)  # fmt: skip
from deltatune.recyclable.claims.measures import attention_alike, base_distance, path

ELSE = 1000  # added to a seed where another draw is wanted


def _alone() -> Any:
    """The head without the delta."""
    from deltatune.recyclable.recycle import Recycling

    return Recycling(scale=0.0)


def _whole() -> Any:
    from deltatune.recyclable.recycle import Recycling

    return Recycling()


def compatible(context: Context, seed: int, kind: Kind = "Full") -> Effects:
    """C1: outdated weights on the upgraded base, and on the base of other origin."""
    sources = [outdated(context, seed, kind, task) for task in bench.TASKS]
    found: dict[str, list[float]] = {}
    for source in sources:
        places: dict[str, Numbers] = {
            "upgraded": applied(context, source, NEW, _whole()),
            "independent": applied(context, source, OTHER, _whole()),
            "head": applied(context, source, NEW, _alone()),
            "random": applied(context, randomized(context, source, seed), NEW, _whole()),
            "untuned": applied(context, source, NEW, None, seed),
        }
        for name, numbers in places.items():
            found.setdefault(name, []).append(100 * numbers["value"])
    gains = {name: fmean(found["upgraded"]) - fmean(scores) for name, scores in found.items() if name != "upgraded"}
    records = [
        {"what": name, "task": source.task, "score": score}
        for name, scores in found.items()
        for source, score in zip(sources, scores, strict=True)
    ]
    effect = gains.pop("independent")
    return Effects(effect, gains, {"solved": solved(*sources)}, records)


def tuned_on(context: Context, seed: int, base: str, kind: Kind = "Full") -> SharedRun:
    """A base tuned afresh on all examples: the head of the outdated model at its start, another order of data."""
    need_models()
    updates = bench.UPDATES if kind == "Full" else bench.ADAPTER_UPDATES
    return context.tuned(Arm(kind, base, ASPECT, seed, seed + ELSE, updates=updates, every=bench.EVERY).config())


def fades(context: Context, seed: int) -> Effects:
    """C2: the loss of outdated weights on each stage of the series."""
    sources = [outdated(context, seed, task=task) for task in bench.TASKS]
    series = {base: [applied(context, source, base, _whole()) for source in sources] for base in STAGES}
    losses = {base: fmean(found["loss"] for found in of_base) for base, of_base in series.items()}
    first, second, third = (losses[base] for base in STAGES)
    alien = fmean(applied(context, source, OTHERS[FAR], _whole())["loss"] for source in sources)
    untouched = [series[base][0]["loss"] for base in (NEW, FAR)]
    afresh = [float(tuned_on(context, seed, base).facts["scores"]["test"]["loss"]) for base in (NEW, FAR)]
    controls = {
        "second": second - first,
        "third": third - second,
        "independent": alien - third,
        "forgetting": (untouched[1] - untouched[0]) - (afresh[1] - afresh[0]),
    }
    records: list[dict[str, Any]] = [
        {"base": base, "task": source.task, "loss": found["loss"], "score": 100 * found["value"]}
        for base, of_base in series.items()
        for source, found in zip(sources, of_base, strict=True)
    ]
    return Effects(third - first, controls, {"solved": solved(*sources)}, records)


def connected(context: Context, seed: int, kind: Kind = "Full") -> Effects:
    """C3: loss barriers from the tuned old base to the tuned upgraded one, and to the tuned base of other origin."""
    need_models()
    old = context.tuned(Arm(kind, OLD, ASPECT, seed, seed).config())
    ends = {name: tuned_on(context, seed, base, kind) for name, base in (("upgraded", NEW), ("independent", OTHER))}
    lines = {name: path(context, old, end) for name, end in ends.items()}
    barriers = {name: found["barrier"] for name, found in lines.items()}
    lowest = 100 * min(run.score() for run in (old, *ends.values()))
    records = [
        {"pair": name, "x": x, "loss": loss, "value": value}
        for name, found in lines.items()
        for x, loss, value in zip(found["x"], found["loss"], found["value"], strict=True)
    ]
    controls = {"independent": barriers["upgraded"] - barriers["independent"] / 5}
    return Effects(barriers["upgraded"], controls, {"ends": lowest - bench.chance([ASPECT])}, records)


def alike(context: Context, seed: int) -> Effects:
    """C4: attention heads of the tuned models on the same texts."""
    need_models()
    old = context.tuned(Arm("Full", OLD, ASPECT, seed, seed).config())
    new, other = (tuned_on(context, seed, base) for base in (NEW, OTHER))
    found = {
        "upgraded": attention_alike(context, old, new, ASPECT, seed),
        "independent": attention_alike(context, old, other, ASPECT, seed),
    }
    found["random"] = attention_alike(context, old, f"{OLD}@0", ASPECT, seed)
    before = [attention_alike(context, OLD, base, ASPECT, seed)["same"] for base in (NEW, OTHER)]
    same = found["upgraded"]["same"]
    controls = {
        "matched": same - found["independent"]["best"],
        "random": same - found["random"]["best"],
        "untuned": before[0] - before[1],
    }
    lowest = 100 * min(run.score() for run in (old, new, other))
    records = [{"pair": name, "how": how, "correlation": value} for name, both in found.items() for how, value in both.items()]
    return Effects(same - found["independent"]["same"], controls, {"ends": lowest - bench.chance([ASPECT])}, records)


def near(context: Context, seed: int) -> Effects:
    """C5: distances of the bases, which no seed decides."""
    need_models()
    lengths = {base: base_distance(OLD, base) for base in (*STAGES, *OTHERS.values(), f"{OLD}@0")}
    first, second, third = (lengths[base] for base in STAGES)
    controls = {
        "second": second - first,
        "third": third - second,
        "last": third - lengths[OTHERS[FAR]] / 2,
        "random": first - lengths[f"{OLD}@0"] / 2,
    }
    records = [{"base": base, "distance": length} for base, length in lengths.items()]
    return Effects(100 * first / lengths[OTHER], controls, {}, records)
