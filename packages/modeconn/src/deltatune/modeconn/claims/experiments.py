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
    OTHER_DOMAIN,
    OTHER_TASK,
    SNAPSHOTS,
    TASK,
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
    init, order = (seeds_line(context, "Houlsby", seed, what, base=base) for what in ("init", "order"))
    matched = seeds_line(context, "Houlsby", seed, "init", align=True, base=base)
    records = [*rows_of("init", init), *rows_of("order", order), *rows_of("init, aligned", matched)]
    return Effects(barrier(init) - barrier(order), {"aligned": barrier(matched) - barrier(order)}, ends_of(init, order), records)


def fine_tuning_is_straighter(context: Context, seed: int, base: str = BASE) -> Effects:
    """C2: fine-tuning against adapters, both with two seeds."""
    need_models(base)
    full, adapter = (seeds_line(context, kind, seed, "both", base=base) for kind in ("Full", "Houlsby"))
    matched = seeds_line(context, "Houlsby", seed, "both", align=True, base=base)
    shared = seeds_line(context, "Houlsby", seed, "order", base=base)
    controls = {"aligned": barrier(matched) - barrier(full), "shared": barrier(adapter) - barrier(shared)}
    records = [*rows_of("fine-tuning", full), *rows_of("adapters", adapter), *rows_of("adapters, aligned", matched)]
    return Effects(barrier(adapter) - barrier(full), controls, ends_of(full, adapter), records)


def curve_removes_the_barrier(context: Context, seed: int) -> Effects:
    """C3: what a quadratic curve leaves of the line's barrier, on dev and on test at 26 fresh places."""
    need_models()
    left, right = end(context, "Houlsby", seed, seed), end(context, "Houlsby", seed + 1000, seed + 1000, std=0.08)
    straight = line(context, left.path, right.path)[TASK]
    train = {"data_seed": seed, "lr": 1e-3, "steps": bench.CURVE_UPDATES, "more": {"eval_every": bench.CURVE_UPDATES}}
    folder = tune_between(context, left.path, right.path, "curve", train, seed=seed)
    bent = context.store.get({"bent": folder.name, "points": 26}, lambda: _bent(left.path, right.path, folder))
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
        rows = measure(stage, places(26), Limits(), Path(state), coefficients=curve("bezier", 1))
    values = {
        s: {"loss": [r.loss for r in of_split(rows, s)], "value": [r.value for r in of_split(rows, s)]} for s in ("dev", "test")
    }
    return {"x": places(26), **values}


def pretraining_connects(context: Context, seed: int) -> Effects:
    """C4: barriers of fine-tuned pairs by the step of pre-training that they start from."""
    need_models(*SNAPSHOTS)
    found = {base: seeds_line(context, "Full", seed, "both", base=base) for base in SNAPSHOTS}
    steps, barriers = list(map(math.log, SNAPSHOTS.values())), [barrier(item) for item in found.values()]
    relative = [
        b / fmean((item["dev"]["loss"][0], item["dev"]["loss"][-1])) for b, item in zip(barriers, found.values(), strict=True)
    ]
    records = [row for base, item in found.items() for row in rows_of(base, item)]
    return Effects(spearman(steps, barriers), {"relative": spearman(steps, relative)}, ends_of(found[BASE]), records)


def pretraining_joins_tasks(context: Context, seed: int) -> Effects:
    """C5: the area under the lesser of two tasks' normalised scores on the line between them, by step of pre-training."""
    need_models(*SNAPSHOTS)
    areas, records = {}, []
    for base in SNAPSHOTS:
        ends = [end(context, "Full", seed, seed, base=base, task=task) for task in (TASK, OTHER_TASK)]
        found = line(context, ends[0].path, ends[1].path, (TASK, OTHER_TASK))
        one, other = found[TASK]["dev"]["value"], found[OTHER_TASK]["dev"]["value"]
        lesser = [min(a / one[0], b / other[-1]) for a, b in zip(one, other, strict=True)]
        areas[base] = fmean((a + b) / 2 for a, b in pairwise(lesser))
        records.append({"base": base, "area": areas[base]})
    last = found[TASK]["dev"]["value"][0]
    values = list(areas.values())
    gates = {"above_chance": 100 * last - 100 / 3}
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
    drops = {}
    for name, task in (("domain", OTHER_DOMAIN), ("task", OTHER_TASK)):
        other = end(context, "Full", seed, seed, task=task)
        found = line(context, first.path, other.path, (TASK, task))
        drops[name] = fmean(drop(item) for item in found.values())
    records: list[dict[str, Any]] = [{"what": "same", "drop": same}, *({"what": w, "drop": d} for w, d in drops.items())]
    gates = {"above_chance": 100 * first.score("dev") - 100 / 3}
    return Effects(drops["task"] - drops["domain"], {"same": drops["domain"] - same}, gates, records)


def barriers_grow_with_training(context: Context, seed: int) -> Effects:
    """C8: the slope of the barrier against the logarithm of the step, for adapters of different initial values."""
    need_models()
    steps = [bench.UPDATES // 4, bench.UPDATES // 2, bench.UPDATES]
    more = {"snapshots": tuple(steps)}
    ends = [end(context, "Houlsby", s, s, **more) for s in (seed, seed + 1000)]
    found = [line(context, Path(f"{ends[0].path}@{s}"), Path(f"{ends[1].path}@{s}"))[TASK] for s in steps]
    full = end(context, "Full", seed, seed, **more)
    late = line(context, Path(f"{full.path}@{steps[1]}"), Path(f"{full.path}@{steps[2]}"))[TASK]
    logs, barriers = [math.log(s) for s in steps], [barrier(item) for item in found]
    mean = fmean(logs)
    slope = sum((x - mean) * y for x, y in zip(logs, barriers, strict=True)) / sum((x - mean) ** 2 for x in logs)
    records = [row for step, item in zip(steps, found, strict=True) for row in rows_of(f"step {step}", item)]
    gates = {"above_chance": ends_of(found[-1])["above_chance"]}
    return Effects(slope, {"late": drop(late)}, gates, records)


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
    init, order = (seeds_line(context, "Houlsby", seed, what) for what in ("init", "order"))
    greatest = max(barrier(item) for item in found.values())
    records = [{"what": name, "barrier": barrier(item)} for name, item in {**found, "init": init, "order": order}.items()]
    return Effects(barrier(init) - greatest, {"order": barrier(init) - barrier(order)}, ends_of(init), records)


def _walk_over_training(context: Context, seed: int) -> Line:
    left, right = (end(context, "Houlsby", s, s) for s in (seed, seed + 1000))
    return line(context, left.path, right.path, split="train", points=6)[TASK]


def examples_come_and_go(context: Context, seed: int) -> Effects:
    """C10: at how many of the transitions with little change of accuracy examples are forgotten and others absorbed."""
    from deltatune.modeconn.bookkeeping import fates

    need_models()
    found = _walk_over_training(context, seed)
    fate, values = fates(found["train"]["lists"]), found["train"]["value"]
    quiet = [k for k, (a, b) in enumerate(pairwise(values)) if abs(a - b) < 0.01]
    both = [k for k in quiet if fate.forgotten[k] and fate.remembered[k]]
    left = end(context, "Houlsby", seed, seed)
    again = context.store.get({"again": str(left.facts["config_digest"])}, lambda: _changes(left.path))
    records = [
        {"step": k, "forgotten": len(fate.forgotten[k]), "remembered": len(fate.remembered[k]), "quiet": k in quiet}
        for k in range(len(values) - 1)
    ]
    gates = {"quiet": float(len(quiet)), "above_chance": 100 * min(values[0], values[-1]) - 100 / 3}
    return Effects(100 * len(both) / len(quiet) if quiet else 0.0, {"again": float(again)}, gates, records)


def _changes(path: Path) -> int:
    """Examples on which one model, evaluated twice, differs from itself."""
    from deltatune.core.evaluation import evaluate
    from deltatune.core.reuse import open_run

    opened = open_run(path)
    task, backbone = opened.task_choice().load(), opened.backbone(device="cpu")
    form, tuned = opened.format(backbone, task), opened.attach(backbone)
    one, other = (evaluate(tuned, form, task.train).per_example or [] for _ in range(2))
    return sum(a != b for a, b in zip(one, other, strict=True))


def hard_examples_are_forgotten(context: Context, seed: int) -> Effects:
    """C11: the statistics of forgotten examples against those that stay right, by the data map of another run."""
    from deltatune.modeconn import datamap
    from deltatune.modeconn.commands.mapping import _courses

    need_models()
    per_epoch = -(-bench.TRAIN // bench.BATCH)
    steps = tuple(per_epoch * k for k in range(1, 6))
    run = end(context, "Houlsby", seed + 2000, seed + 2000, steps=steps[-1], snapshots=steps)
    key = {"map": run.facts["config_digest"]}
    kept = context.store.get(key, lambda: datamap.record(_courses(run.path, steps, "gold", None, "cpu")))
    courses = {name: datamap.Course(tuple(c["acc"]), tuple(c["confidence"])) for name, c in kept.items()}
    found = _walk_over_training(context, seed)
    lists = {str(x): item for x, item in zip(found["x"], found["train"]["lists"], strict=True)}
    groups = [group for group in datamap.combine(courses, lists) if group.start != datamap.START and group.count]
    means = {
        (name, key): fmean([getattr(g, key) for g in groups if g.name == name] or [0.0])
        for name in ("forgotten", "stays right")
        for key in ("confidence", "correctness", "variability", "turns")
    }
    gaps = {
        key: means["stays right", key] - means["forgotten", key] for key in ("confidence", "correctness", "variability", "turns")
    }
    forgotten = sum(group.count for group in groups if group.name == "forgotten")
    return Effects(100 * gaps["confidence"], {"correctness": 100 * gaps["correctness"]}, {"forgotten": float(forgotten)}, [gaps])


def points_beat_both_ends(context: Context, seed: int, base: str = BASE) -> Effects:
    """C12: the gain on test of the point that is best on dev over the end that is better on dev."""
    need_models(base)
    gains, losses, lines, records = [], [], [], []
    for kind, what in (("Full", "both"), ("Full", "order"), ("Houlsby", "order")):
        found = seeds_line(context, kind, seed, what, base=base)  # type: ignore[arg-type]
        dev, test = found["dev"]["value"], found["test"]["value"]
        best, better = dev.index(max(dev)), 0 if dev[0] >= dev[-1] else len(dev) - 1
        gains.append(100 * (test[best] - test[better]))
        losses.append(found["test"]["loss"][best] - found["test"]["loss"][better])
        lines.append(found)
        records.append({"kind": kind, "what": what, "x": found["x"][best], "gain": gains[-1]})
    return Effects(fmean(gains), {"loss": fmean(losses)}, ends_of(*lines), records)


def mixing_is_no_worse(context: Context, seed: int) -> Effects:
    """C13: dev loss of learned mixtures against the better end, and training loss by how fine the groups are."""
    import json

    need_models()
    left, right = (end(context, "Full", s, s) for s in (seed, seed + 1000))
    straight = line(context, left.path, right.path)[TASK]
    dev, trained = {}, {}
    for by in ("block", "layer", "weight"):
        for std in (0.1, 10.0):
            train = {"data_seed": seed, "lr": 0.1, "steps": bench.MIX_UPDATES, "more": {"eval_every": bench.MIX_UPDATES}}
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
    first = end(context, "Houlsby", seed, seed)
    others = {"init": (seed + 1000, seed), "order": (seed, seed + 1000), "both": (seed + 1000, seed + 1000)}
    found = {name: line(context, first.path, end(context, "Houlsby", *seeds).path)[TASK] for name, seeds in others.items()}
    found["aligned"] = seeds_line(context, "Houlsby", seed, "init", align=True)
    for factor in (0.5, 2.0):
        found[f"lr x {factor:g}"] = line(context, first.path, end(context, "Houlsby", seed, seed, lr=factor).path)[TASK]
    distances, barriers = [item["distance"] for item in found.values()], [barrier(item) for item in found.values()]
    records = [{"pair": n, "distance": d, "barrier": b} for n, d, b in zip(found, distances, barriers, strict=True)]
    spread = max(distances) / min(distances)
    return Effects(abs(spearman(distances, barriers)), {"spread": spread}, ends_of(*found.values()), records)
