"""The experiments of the claims, each with one seed."""

from __future__ import annotations

import math
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from deltatune.core.claims import Context, Effects
from deltatune.modeconn.claims import bench
from deltatune.modeconn.claims.bench import (
    BASE,
    CHANCE,
    OTHER_DOMAIN,
    SNAPSHOTS,
    TASK,
    WORDS,
    Line,
    barrier,
    drop,
    end,
    ends_of,
    line,
    need_models,
    rows_of,
    seeds_line,
    spearman,
    tune_between,
)


def initialisation_matters(context: Context, seed: int, base: str = BASE) -> Effects:
    """C1: adapters that differ in their initial values against adapters that differ in the order of data."""
    need_models(base)
    init = seeds_line(context, "Houlsby", seed, "init", base=base)  # on test too: the curve of C3 has these ends
    order = seeds_line(context, "Houlsby", seed, "order", base=base, split="dev")
    matched = seeds_line(context, "Houlsby", seed, "init", align=True, base=base, split="dev")
    records = [*rows_of("init", init), *rows_of("order", order), *rows_of("init, aligned", matched)]
    return Effects(barrier(init) - barrier(order), {"aligned": barrier(matched) - barrier(order)}, ends_of(init, order), records)


def fine_tuning_is_straighter(context: Context, seed: int, base: str = BASE) -> Effects:
    """C2: fine-tuning against adapters, both with two seeds."""
    need_models(base)
    full, adapter = (seeds_line(context, kind, seed, "both", base=base, split="dev") for kind in ("Full", "Houlsby"))
    matched = seeds_line(context, "Houlsby", seed, "both", align=True, base=base, split="dev")
    shared = seeds_line(context, "Houlsby", seed, "order", base=base, split="dev")
    controls = {"aligned": barrier(matched) - barrier(full), "shared": barrier(adapter) - barrier(shared)}
    records = [*rows_of("fine-tuning", full), *rows_of("adapters", adapter), *rows_of("adapters, aligned", matched)]
    means = [fmean((found["dev"]["value"][0], found["dev"]["value"][-1])) for found in (full, adapter)]
    gates = {**ends_of(full, adapter), "matched": 100 * abs(means[0] - means[1])}
    return Effects(barrier(adapter) - barrier(full), controls, gates, records)


def curve_removes_the_barrier(context: Context, seed: int, std: float = 0.02) -> Effects:
    """C3: what a curve leaves of the line's barrier, between two ends of C1 or to one that began with another spread."""
    need_models()
    left = end(context, "Houlsby", seed, seed)
    right = end(context, "Houlsby", seed + 1000, seed, **({} if std == 0.02 else {"std": std}))
    straight = line(context, left.path, right.path)[TASK]
    train = {"data_seed": seed, "lr": 1e-2, "steps": bench.CURVE_UPDATES}
    folder = tune_between(context, left.path, right.path, "curve", train, seed=seed)
    key = {"bent": folder.name, "points": bench.CURVE_POINTS}
    bent = context.store.get(key, lambda: _bent(left.path, right.path, folder))
    shares = {split: min(2.0, barrier(bent, split) / max(barrier(straight, split), 1e-6)) for split in ("dev", "test")}
    gates = {**ends_of(straight), "barrier": barrier(straight)}
    records = [*rows_of("line", straight), *rows_of("curve", bent)]
    return Effects(100 * shares["dev"], {"test": 100 * shares["test"]}, gates, records)


def _bent(left: Path, right: Path, folder: Path) -> Line:
    from deltatune.core.reuse import open_run
    from deltatune.modeconn.bookkeeping import places
    from deltatune.modeconn.curves import curve
    from deltatune.modeconn.scenes import Where, scene, tasks_of
    from deltatune.modeconn.sweeps import Limits, measure, of_split

    runs = [open_run(path) for path in (left, folder / "controls" / "1", right)]
    [(choice, own)] = tasks_of(runs[:1], (), None)
    stage = scene(runs, choice, own, Where((None,) * 3, "cpu", False))
    with tempfile.TemporaryDirectory() as state:
        rows = measure(stage, places(bench.CURVE_POINTS), Limits(), Path(state), coefficients=curve("bezier", 1))
    values = {
        s: {"loss": [r.loss for r in of_split(rows, s)], "value": [r.value for r in of_split(rows, s)]} for s in ("dev", "test")
    }
    return {"x": places(bench.CURVE_POINTS), **values}


def pretraining_connects(context: Context, seed: int) -> Effects:
    """C4: barriers of fine-tuned pairs by the step of pre-training that they start from."""
    need_models(*SNAPSHOTS)
    # On test too where C12 looks at the same line.
    splits = {base: "eval" if base == BASE else "dev" for base in SNAPSHOTS}
    found = {b: seeds_line(context, "Full", seed, "order", base=b, task=WORDS, split=split) for b, split in splits.items()}
    steps, barriers = list(map(math.log, SNAPSHOTS.values())), [barrier(item) for item in found.values()]
    relative = [
        b / fmean((item["dev"]["loss"][0], item["dev"]["loss"][-1])) for b, item in zip(barriers, found.values(), strict=True)
    ]
    records = [row for base, item in found.items() for row in rows_of(base, item)]
    return Effects(spearman(steps, barriers), {"relative": spearman(steps, relative)}, ends_of(*found.values()), records)


def pretraining_joins_tasks(context: Context, seed: int) -> Effects:
    """C5: the area under the lesser of two tasks' normalised scores on the line between them, by step of pre-training."""
    need_models(*SNAPSHOTS)
    areas, records, worst = {}, [], 100.0
    for base in SNAPSHOTS:
        ends = [end(context, "Full", seed, seed, base=base, task=task) for task in (TASK, WORDS)]
        found = line(context, ends[0].path, ends[1].path, (TASK, WORDS))
        one, other = found[TASK]["dev"]["value"], found[WORDS]["dev"]["value"]
        lesser = [min(a / one[0], b / other[-1]) for a, b in zip(one, other, strict=True)]
        areas[base] = fmean((a + b) / 2 for a, b in pairwise(lesser))
        records.append({"base": base, "area": areas[base]})
        worst = 100 * min(one[0], other[-1]) - CHANCE
    values = list(areas.values())
    gates = {"above_chance": worst}  # at the end of pre-training
    return Effects(spearman(list(SNAPSHOTS.values()), values), {"last": values[-1] - values[0]}, gates, records)


def halves_are_connected(context: Context, seed: int) -> Effects:
    """C6: minima from the two halves of the data against minima from the same data in another order."""
    need_models()
    ends = [end(context, "Full", seed, seed, half=half) for half in ("first", "second")]
    split, same = line(context, ends[0].path, ends[1].path)[TASK], seeds_line(context, "Full", seed, "order")
    records = [*rows_of("halves", split), *rows_of("same data", same)]
    return Effects(drop(split) - drop(same), {"same": drop(same)}, ends_of(split, same), records)


def domains_are_nearer_than_tasks(context: Context, seed: int) -> Effects:
    """C7: drops on the line to another order of data, another domain of the task, and another task."""
    need_models()
    first = end(context, "Full", seed, seed)
    same = drop(seeds_line(context, "Full", seed, "order"))
    drops, scores = {}, [first.score("dev")]
    for name, task in (("domain", OTHER_DOMAIN), ("task", WORDS)):
        other = end(context, "Full", seed, seed, task=task)
        scores.append(other.score("dev"))
        found = line(context, first.path, other.path, (TASK, task))
        drops[name] = fmean(drop(item) for item in found.values())
    records: list[dict[str, Any]] = [{"what": "same", "drop": same}, *({"what": w, "drop": d} for w, d in drops.items())]
    gates = {"above_chance": 100 * min(scores) - CHANCE}
    return Effects(drops["task"] - drops["domain"], {"same": drops["domain"] - same}, gates, records)


def barriers_grow_with_training(context: Context, seed: int) -> Effects:
    """C8: the slope of the barrier against the logarithm of the step, for adapters of different initial values."""
    need_models()
    updates, _ = bench.length()
    steps = [updates // 4, updates // 2, updates]
    ends = [end(context, "Houlsby", s, s) for s in (seed, seed + 1000)]
    found = [line(context, Path(f"{ends[0].path}@{s}"), Path(f"{ends[1].path}@{s}"))[TASK] for s in steps]
    full = end(context, "Full", seed, seed)
    late = line(context, Path(f"{full.path}@{steps[1]}"), Path(f"{full.path}@{steps[2]}"))[TASK]
    logs, barriers = [math.log(s) for s in steps], [barrier(item) for item in found]
    mean = fmean(logs)
    slope = sum((x - mean) * y for x, y in zip(logs, barriers, strict=True)) / sum((x - mean) ** 2 for x in logs)
    records = [row for step, item in zip(steps, found, strict=True) for row in rows_of(f"step {step}", item)]
    return Effects(slope, {"late": drop(late)}, ends_of(found[-1]), records)


def rates_matter_less(context: Context, seed: int) -> Effects:
    """C9: the greatest barrier between different rates or batch sizes against that between initial values."""
    need_models()
    middle = end(context, "Houlsby", seed, seed)
    others = {
        f"{what} x {factor:g}": end(context, "Houlsby", seed, seed, **{what: factor})
        for what in ("lr", "batch")
        for factor in (0.5, 2)
    }
    found = {name: line(context, middle.path, other.path)[TASK] for name, other in others.items()}
    init, order = seeds_line(context, "Houlsby", seed, "init"), seeds_line(context, "Houlsby", seed, "order", split="dev")
    greatest = max(barrier(item) for item in found.values())
    records = [{"what": name, "barrier": barrier(item)} for name, item in {**found, "init": init, "order": order}.items()]
    return Effects(barrier(init) - greatest, {"order": barrier(init) - barrier(order)}, ends_of(init, *found.values()), records)


def _walk_over_training(context: Context, seed: int) -> Line:
    """Between two orders of data, whose line is flat enough to have steps at which accuracy hardly changes."""
    return seeds_line(context, "Houlsby", seed, "order", task=WORDS, split="train", points=6)


def examples_come_and_go(context: Context, seed: int) -> Effects:
    """C10: at how many of the transitions with little change of accuracy examples are forgotten and others absorbed."""
    from deltatune.modeconn.bookkeeping import fates

    need_models()
    found = _walk_over_training(context, seed)
    fate, values = fates(found["train"]["lists"]), found["train"]["value"]
    quiet = [k for k, (a, b) in enumerate(pairwise(values)) if abs(a - b) < 0.01]
    both = [k for k in quiet if fate.forgotten[k] and fate.remembered[k]]
    left = end(context, "Houlsby", seed, seed, task=WORDS)
    again = context.store.get({"again": str(left.facts["config_digest"])}, lambda: _changes(left.path))
    records = [
        {"step": k, "forgotten": len(fate.forgotten[k]), "remembered": len(fate.remembered[k]), "quiet": k in quiet}
        for k in range(len(values) - 1)
    ]
    gates = {"quiet": float(len(quiet)), **ends_of(found, split="train")}
    return Effects(100 * len(both) / len(quiet) if quiet else 0.0, {"again": float(again)}, gates, records)


def _changes(path: Path) -> int:
    """Examples on which one model, evaluated twice, differs from itself."""
    from deltatune.core.evaluation import evaluate
    from deltatune.core.reuse import open_run

    opened = open_run(path)
    task, backbone = opened.task_choice().load(), opened.backbone(device="cpu")
    form, tuned = opened.format(backbone, task), opened.attach(backbone)
    one, other = (evaluate(tuned, form, task.train[: bench.SEEN]).per_example or [] for _ in range(2))
    return sum(a != b for a, b in zip(one, other, strict=True))


def hard_examples_are_forgotten(context: Context, seed: int) -> Effects:
    """C11: the statistics of forgotten examples against those that stay right, by the data map of another run."""
    from deltatune.modeconn import datamap
    from deltatune.modeconn.commands.mapping import _courses

    need_models()
    per_epoch = -(-bench.SEEN // bench.length(WORDS)[1])
    steps = tuple(per_epoch * k for k in range(1, 6))
    # Of the examples that are on the path: tuned on these alone, each has been seen five times.
    run = end(context, "Houlsby", seed + 2000, seed + 2000, task=WORDS, steps=steps[-1], snapshots=steps, train=bench.SEEN)
    key = {"map": run.facts["config_digest"]}
    kept = context.store.get(key, lambda: datamap.record(_courses(run.path, steps, "gold", None, "cpu")))
    courses = {name: datamap.Course(tuple(c["acc"]), tuple(c["confidence"])) for name, c in kept.items()}
    found = _walk_over_training(context, seed)
    lists = {str(x): item for x, item in zip(found["x"], found["train"]["lists"], strict=True)}
    groups = [group for group in datamap.combine(courses, lists) if group.start != datamap.START and group.count]
    keys = ("confidence", "correctness", "variability", "turns")
    means = {
        (name, key): fmean([getattr(g, key) for g in groups if g.name == name] or [0.0])
        for name in ("forgotten", "stays right")
        for key in keys
    }
    gaps = {key: means["stays right", key] - means["forgotten", key] for key in keys}
    forgotten = sum(group.count for group in groups if group.name == "forgotten")
    return Effects(100 * gaps["confidence"], {"correctness": 100 * gaps["correctness"]}, {"forgotten": float(forgotten)}, [gaps])


def points_beat_both_ends(context: Context, seed: int, base: str = BASE) -> Effects:
    """C12: the gain on test of the point that is best on dev over the end that is better on dev."""
    need_models(base)
    gains, losses, lines, records = [], [], [], []
    for kind in ("Full", "Houlsby"):
        found = seeds_line(context, kind, seed, "order", base=base, task=WORDS)
        dev, test = found["dev"]["value"], found["test"]["value"]
        best, better = dev.index(max(dev)), 0 if dev[0] >= dev[-1] else len(dev) - 1
        gains.append(100 * (test[best] - test[better]))
        losses.append(found["test"]["loss"][best] - found["test"]["loss"][better])
        lines.append(found)
        records.append({"kind": kind, "x": found["x"][best], "gain": gains[-1]})
    return Effects(fmean(gains), {"loss": fmean(losses)}, ends_of(*lines), records)


def mixing_is_no_worse(context: Context, seed: int) -> Effects:
    """C13: dev loss of learned mixtures against the better end, and training loss by how fine the groups are."""
    import json

    need_models()
    left, right = (end(context, "Full", s, s) for s in (seed, seed + 1000))
    straight = line(context, left.path, right.path, split="dev")[TASK]
    dev, trained = {}, {}
    for by in ("block", "layer", "weight"):
        for std in (0.1, 10.0):
            train = {"data_seed": seed, "lr": 0.1, "steps": bench.MIX_UPDATES}
            folder = tune_between(context, left.path, right.path, "mix", train, by=by, std=std, seed=seed)
            facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            dev[by, std] = facts["scores"]["dev"]["loss"]
            trained[by, std] = line(context, folder, left.path, split="train", points=2)[TASK]["train"]["loss"][0]
    losses = straight["dev"]["loss"]
    better = min(losses[0], losses[-1])
    controls = {
        "finer": trained["weight", 0.1] - trained["block", 0.1],
        "start": dev["layer", 0.1] - dev["layer", 10.0],
    }
    records = [{"by": by, "std": std, "dev": dev[by, std], "train": trained[by, std], "single": min(losses)} for by, std in dev]
    return Effects(min(dev[by, 0.1] for by in ("block", "layer", "weight")) - better, controls, ends_of(straight), records)


def distance_does_not_decide(context: Context, seed: int) -> Effects:
    """C14: the rank correlation of distance and barrier over pairs of adapters."""
    need_models()
    one, init, order = (end(context, "Houlsby", *pair).path for pair in ((seed, seed), (seed + 1000, seed), (seed, seed + 1000)))
    found = {"init": seeds_line(context, "Houlsby", seed, "init")}
    found["order"] = seeds_line(context, "Houlsby", seed, "order", split="dev")
    found["init, aligned"] = seeds_line(context, "Houlsby", seed, "init", align=True, split="dev")
    found["both"] = line(context, init, order, split="dev")[TASK]
    half = bench.length()[0] // 2
    early = line(context, Path(f"{one}@{half}"), one, split="dev")[TASK]
    halves = line(context, Path(f"{one}@{half}"), Path(f"{order}@{half}"), split="dev")[TASK]
    good = ends_of(*found.values())  # what is half tuned need not be as good
    found |= {"half-way of one run": early, "order, half-way": halves}
    distances, barriers = [item["distance"] for item in found.values()], [barrier(item) for item in found.values()]
    records = [{"pair": n, "distance": d, "barrier": b} for n, d, b in zip(found, distances, barriers, strict=True)]
    spread = max(distances) / min(distances)
    return Effects(abs(spearman(distances, barriers)), {"spread": spread}, good, records)
