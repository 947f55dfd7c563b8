"""Experiments on training an upgraded base with the help of outdated weights: C6 to C8, C11."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deltatune.core.claims import Context, Effects, SharedRun
from deltatune.recyclable.claims import bench
from deltatune.recyclable.claims.bench import (
    ASPECT,
    FAR,
    NEW,
    OTHER,
    SHOTS,
    SIMILAR,
    UNRELATED,
    Arm,
    Kind,
    curve,
    outdated,
    randomized,
    reached,
    recycled,
    solved,
)  # fmt: skip
from deltatune.recyclable.claims.compatibility import ELSE, tuned_on
from deltatune.recyclable.distill import Distillation
from deltatune.recyclable.recycle import Recycling

LOGITS = Distillation(alpha=0.9, beta=0.0, temperature=5.0)
WHOLE, ALONE, FRESH = Recycling(), Recycling(scale=0.0), Recycling(head_init="fresh")


def score(run: SharedRun, split: str = "test") -> float:
    """Of the end of a run, in points."""
    return 100 * run.score(split)


def loss(run: SharedRun, split: str = "test") -> float:
    """Cross entropy at the end of a run."""
    return float(run.facts["scores"][split]["loss"])


def saved_updates(afresh: SharedRun, helped: SharedRun) -> float:
    """How many updates fewer the helped run needs for 95% of the final dev score of the other, in percent of that one's.

    A run that does not come so far, also one that is shorter, counts as needing one evaluation more than the other had.
    """
    last, final = curve(afresh)[-1]
    needed, helped_needed = (reached(run, 0.95 * final, last + bench.EVERY) for run in (afresh, helped))
    return 100 * (needed - helped_needed) / needed


def curves(runs: Mapping[str, SharedRun]) -> list[dict[str, Any]]:
    """Records of the scores on dev along several runs."""
    return [{"arm": name, "step": step, "value": value} for name, run in runs.items() for step, value in curve(run)]


def speeds_up(context: Context, seed: int, kind: Kind = "Full") -> Effects:
    """C6: updates until 95% of the final score, from outdated weights and afresh."""
    source = outdated(context, seed, kind)
    # The fresh head has other values than the outdated one had at its start, or it would be near to it.
    arm = Arm(kind, NEW, ASPECT, seed + ELSE, seed + ELSE, every=bench.EVERY)
    runs = {
        "afresh": tuned_on(context, seed, NEW, kind),
        "old init": recycled(context, arm, source, WHOLE),
        "old delta, fresh head": recycled(context, arm, source, FRESH),
        "old head alone": recycled(context, arm, source, ALONE),
    }
    alien = tuned_on(context, seed, OTHER, kind), recycled(context, replace(arm, base=OTHER), source, WHOLE)
    gained = {name: saved_updates(runs["afresh"], run) for name, run in runs.items() if name != "afresh"}
    controls = {
        "fresh_head": gained["old delta, fresh head"],
        "head": gained["old init"] - gained["old head alone"],
        "independent": gained["old init"] - saved_updates(*alien),
    }
    gates = {"solved": solved(source), "learned": score(runs["afresh"], "dev") - bench.chance([ASPECT])}
    return Effects(gained["old init"], controls, gates, curves(runs | {"old init, other base": alien[1]}))


def few(base: str, seed: int, kind: Kind = "Full", updates: int = bench.FEW_UPDATES) -> Arm:
    """Sixteen examples of each class."""
    return Arm(kind, base, ASPECT, seed + ELSE, seed + ELSE, SHOTS, updates)


def ends_higher(context: Context, seed: int) -> Effects:
    """C7: final scores with sixteen examples of each class."""
    source, arm = outdated(context, seed), few(NEW, seed)
    scores = {
        "afresh": score(recycled(context, arm)),
        "old init": score(recycled(context, arm, source, WHOLE)),
        "head": score(recycled(context, arm, source, ALONE)),
        "random": score(recycled(context, arm, randomized(context, source, seed), WHOLE)),
        "independent": score(recycled(context, replace(arm, base=OTHER), source, WHOLE)),
    }
    controls = {name: scores["old init"] - scores[name] for name in ("head", "random", "independent")}
    gates = {"solved": solved(source), "room": scores["afresh"]}
    records = [{"arm": name, "score": value} for name, value in scores.items()]
    return Effects(scores["old init"] - scores["afresh"], controls, gates, records)


def similar_task(context: Context, seed: int) -> Effects:
    """C8: updates until 95% of the final score, from the deltas of a similar and of an unrelated task, with a fresh head."""
    arm = Arm("Full", NEW, ASPECT, seed + ELSE, seed + ELSE, every=bench.EVERY)
    similar, unrelated = (outdated(context, seed, task=task) for task in (SIMILAR, UNRELATED))
    runs = {
        "afresh": tuned_on(context, seed, NEW),
        "similar": recycled(context, arm, similar, FRESH),
        # Its labels are others, so that its head says nothing about this task; it is fresh for both.
        "unrelated": recycled(context, arm, unrelated, FRESH),
        "similar with its head": recycled(context, arm, similar, WHOLE),
        "head of similar alone": recycled(context, arm, similar, ALONE),
    }
    gained = {name: saved_updates(runs["afresh"], run) for name, run in runs.items() if name != "afresh"}
    controls = {
        "unrelated": gained["unrelated"],
        "similar": gained["similar"],
        "head": gained["similar with its head"] - gained["head of similar alone"],
    }
    gates = {"solved": solved(similar), "learned": score(runs["afresh"], "dev") - bench.chance([ASPECT])}
    return Effects(gained["similar"] - gained["unrelated"], controls, gates, curves(runs))


def combine_best(context: Context, seed: int) -> Effects:
    """C11: start, teacher and both, on the farthest stage with sixteen examples of each class."""
    source, arm = outdated(context, seed), few(FAR, seed)
    scores = {
        "afresh": score(recycled(context, arm)),
        "init": score(recycled(context, arm, source, WHOLE)),
        "distill": score(recycled(context, arm, None, None, source, LOGITS)),
        "combine": score(recycled(context, arm, source, WHOLE, source, LOGITS)),
        "head": score(recycled(context, arm, source, ALONE, source, LOGITS)),
    }
    controls = {name: scores["combine"] - scores[name] for name in ("init", "distill", "afresh", "head")}
    gates = {"solved": solved(source), "hard": scores["init"]}
    effect = scores["combine"] - (scores["init"] + scores["distill"]) / 2
    return Effects(effect, controls, gates, [{"arm": name, "score": value} for name, value in scores.items()])
