"""Experiments that tune targets from several starts: C1, C2, C3, C9, C11, C12, C13."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from deltatune.core.claims import Context, Effects
from deltatune.ensemble.claims import bench
from deltatune.ensemble.claims.bench import Case, Kind
from deltatune.ensemble.claims.starts import (
    AVERAGE,
    FIVE,
    LOSS,
    RANDOM,
    Start,
    means,
    outcome,
    test_score,
    untuned,
    weighted,
)

SIZES = (8, 16, 64, 128)  # examples of each class in C11; the tasks have 333 of each class at least
CLOSE = 4  # updates between evaluations in C12
ByTarget = dict[str, float]


def scored(context: Context, seed: int, start: Start, targets: Sequence[str] | None = None, kind: Kind = "Houlsby") -> ByTarget:
    """Test score after tuning each target from `start`, in points."""
    return {target: test_score(context, Case(target, seed, kind), start) for target in targets or bench.TARGETS}


def minus(left: Mapping[str, float], right: Mapping[str, float]) -> ByTarget:
    """The difference, target by target."""
    return {target: value - right[target] for target, value in left.items()}


def room(afresh: Mapping[str, float]) -> float:
    """How far tuning from the initial values stays below what the targets' own sources have, of 2,000 examples."""
    own = {target: 100 * bench.shipped("Houlsby")[target].saved.about["scores"]["test"]["value"] for target in afresh}
    return fmean(minus(own, afresh).values())


def _gates(afresh: Mapping[str, float], kind: Kind = "Houlsby") -> dict[str, float]:
    return {"solved": bench.solved(kind), "room": room(afresh)}


def _rows(arms: Mapping[str, Mapping[str, float]], **more: Any) -> list[dict[str, Any]]:
    return [{"arm": arm, "target": target, "score": value, **more} for arm, row in arms.items() for target, value in row.items()]


def beats_baselines(context: Context, seed: int) -> Effects:
    """C1: the method declared beforehand, Loss, with its temperature chosen on dev."""
    starts = {"random": RANDOM, "average": AVERAGE, "loss": LOSS, "dealt": Start("dealt")}
    arms = {name: scored(context, seed, start) for name, start in starts.items()}
    before = {f"{name}, untuned (dev)": _before(context, seed, starts[name]) for name in ("average", "loss")}
    controls = {name: minus(arms["loss"], arms[name]) for name in ("average", "dealt")}
    chosen = [weighted(context, Case(target, seed), LOSS) for target in bench.TARGETS]
    records = _rows({**arms, **before}) + [
        {"target": target, "temperature": found["temperature"], "weights": found["weights"]}
        for target, found in zip(bench.TARGETS, chosen, strict=True)
    ]
    return Effects(minus(arms["loss"], arms["random"]), controls, _gates(arms["random"]), records)


def _before(context: Context, seed: int, start: Start) -> ByTarget:
    return {target: untuned(context, Case(target, seed), start) for target in bench.TARGETS}


def five_beat_baselines(context: Context, seed: int) -> Effects:
    """C1 for the mean of the five methods, with the single best source beside them."""
    arms = {name: scored(context, seed, Start(name)) for name in ("random", "average", "single", *FIVE)}
    mean = means([arms[name] for name in FIVE])
    controls = {"average": minus(mean, arms["average"]), "single": minus(mean, arms["single"])}
    return Effects(minus(mean, arms["random"]), controls, _gates(arms["random"]), _rows(arms))


def three_kinds(context: Context, seed: int) -> Effects:
    """C2: C1 with adapters, LoRA and prefix."""
    gains, records, gates = {}, [], []
    for kind in bench.KINDS:
        arms = {name: scored(context, seed, Start(name), kind=kind) for name in ("random", "average", "loss")}
        gains[kind] = minus(arms["loss"], arms["random"])
        gates.append(_gates(arms["random"], kind))
        records += _rows({f"{kind} {name}": row for name, row in arms.items()})
    worst = {name: min(found[name] for found in gates) for name in gates[0]}
    return Effects(means(list(gains.values())), {str(kind): gain for kind, gain in gains.items()}, worst, records)


def many_tasks(context: Context, seed: int) -> Effects:
    """C3: on how many of all targets the weighted start is better than the initial values, a tie counting half."""
    cases = [Case(target, seed, brief=True) for target in bench.SOURCES]
    arms = {
        name: {case.target: test_score(context, case, Start(name)) for case in cases} for name in ("random", "average", "loss")
    }
    share = {name: _wins(arms["loss"], arms[name]) for name in ("random", "average")}
    controls = {"average": share["average"], "size": {t: 50 + gain for t, gain in minus(arms["loss"], arms["random"]).items()}}
    return Effects(share["random"], controls, _gates(arms["random"]), _rows(arms))


def _wins(left: Mapping[str, float], right: Mapping[str, float]) -> ByTarget:
    return {target: 50.0 + 50.0 * ((gap > 0) - (gap < 0)) for target, gap in minus(left, right).items()}


def manual_division(context: Context, seed: int) -> Effects:
    """C9: the average, that within the category, and learned weights."""
    arms = {name: scored(context, seed, Start(name)) for name in ("random", "average", "manual", *FIVE)}
    mean = means([arms[name] for name in FIVE])
    controls = {"manual": minus(arms["manual"], arms["average"]), "five": minus(mean, arms["manual"])}
    return Effects(minus(arms["loss"], arms["manual"]), controls, _gates(arms["random"]), _rows(arms))


def gain_by_shots(context: Context, seed: int) -> Effects:
    """C11: the slope of the gain on the logarithm of the number of examples."""
    gains: dict[int, ByTarget] = {}
    for shots in SIZES:
        cases = {target: Case(target, seed, shots=shots) for target in bench.TARGETS}
        gains[shots] = {t: test_score(context, case, LOSS) - test_score(context, case, RANDOM) for t, case in cases.items()}
    logs = [math.log2(shots) for shots in SIZES]
    mean = fmean(logs)
    spread = sum((x - mean) ** 2 for x in logs)
    slopes = {
        target: sum((x - mean) * gains[shots][target] for x, shots in zip(logs, SIZES, strict=True)) / spread
        for target in bench.TARGETS
    }
    afresh = scored(context, seed, RANDOM)
    records = [{"shots": s, "target": target, "gain": gain} for s, row in gains.items() for target, gain in row.items()]
    return Effects(slopes, {"few": gains[SIZES[0]]}, _gates(afresh), records)


def convergence(context: Context, seed: int) -> Effects:
    """C12: updates until 90% of the dev score that tuning from the initial values ends with, as a share of its own."""
    ratios, average, records = {}, {}, []
    afresh = {}
    for target in bench.TARGETS:
        case = Case(target, seed, every=CLOSE)
        runs, curves = {}, {}
        for start in (RANDOM, AVERAGE, LOSS):
            runs[start.way] = outcome(context, case, start)[0]
            curves[start.way] = [(0, untuned(context, case, start)), *runs[start.way]["curve"]]
        wanted = 0.9 * curves["random"][-1][1]
        steps = {way: reached(curve, wanted) for way, curve in curves.items()}
        ratios[target] = steps["loss"] / max(1, steps["random"])
        average[target] = (steps["loss"] - steps["average"]) / max(1, steps["random"])
        afresh[target] = runs["random"]["test"]
        records += [
            {"start": way, "target": target, "update": at, "score": value} for way, curve in curves.items() for at, value in curve
        ]
    learned = fmean(afresh.values()) - fmean(bench.chance(target) for target in bench.TARGETS)
    return Effects(ratios, {"average": average}, {"solved": bench.solved(), "learned": learned}, records)


def reached(curve: Sequence[tuple[int, float]], wanted: float) -> int:
    """Updates until the first score on dev of at least `wanted`; one evaluation beyond the last if none is."""
    return next((int(step) for step, value in curve if value >= wanted), int(curve[-1][0]) + CLOSE)


def read_from_weights(context: Context, seed: int) -> Effects:
    """C13: measures that look at weights, or at short runs, and what each costs."""
    kinds = {
        "weight_cosine": Start("weight_cosine"),
        "euclidean": Start("euclidean", "few"),
        "performance": Start("performance", "few"),
    }
    afresh = scored(context, seed, RANDOM)
    arms = {name: scored(context, seed, start) for name, start in kinds.items()}
    gains = {name: minus(row, afresh) for name, row in arms.items()}
    sources, few = len(bench.SOURCES) - 1, len(bench.FEW)
    costs = {
        "loss": {"passes": sources, "trainings": 0},
        "weight_cosine": {"passes": 0, "trainings": 1},
        "euclidean": {"passes": 0, "trainings": few},
        "performance": {"passes": few, "trainings": few},
    }
    records = _rows({"random": afresh, **arms}) + [{"measure": name, **cost} for name, cost in costs.items()]
    controls = {name: gains[name] for name in ("euclidean", "performance")}
    return Effects(gains["weight_cosine"], controls, _gates(afresh), records)
