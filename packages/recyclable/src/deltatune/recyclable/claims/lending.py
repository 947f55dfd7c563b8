"""Experiments on outdated models as teachers, and on adapters: C9, C10, C12."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from deltatune.core.claims import Context, Effects, SharedRun
from deltatune.recyclable.claims import bench
from deltatune.recyclable.claims.bench import NEW, OLD, OTHERS, Kind, blank, outdated, recycled, solved
from deltatune.recyclable.claims.compatibility import compatible, connected
from deltatune.recyclable.claims.training import LOGITS, few, loss, score, speeds_up

SERIES = ((OLD, NEW), (OTHERS[OLD], OTHERS[NEW]))  # two pre-trainings, each with its continuation


def taught(context: Context, seed: int, betas: Sequence[float], kind: Kind = "Full", number: int = 0) -> dict[str, SharedRun]:
    """Sixteen examples of each class, alone and with the outdated model as teacher.

    Args:
        context: of the experiment.
        seed: of teacher and student.
        betas: weights of the layer-wise term, a student for each.
        kind: of both.
        number: of the series.
    """
    old, new = SERIES[number]
    teacher, arm = outdated(context, seed, kind, base=old), few(new, seed, kind, bench.LONG_UPDATES)
    runs = {"plain": recycled(context, arm)}
    for beta in betas:
        runs[f"{beta:g}"] = recycled(context, arm, None, None, teacher, replace(LOGITS, beta=beta))
    return runs


def chosen(runs: Mapping[str, SharedRun], betas: Sequence[float]) -> SharedRun:
    """The run of the beta with the highest score on the few-shot dev examples, of equal ones that of the lowest loss there."""
    return max((runs[f"{beta:g}"] for beta in betas), key=lambda run: (score(run, "dev"), -loss(run, "dev")))


def teacher_helps(context: Context, seed: int) -> Effects:
    """C9: few-shot scores with and without the outdated model as teacher, on both series."""
    gains, losses, against, records = [], [], [], []
    gates = []
    for number, (old, new) in enumerate(SERIES):
        runs = taught(context, seed, (0.0, 10.0), number=number)
        best, plain = chosen(runs, (0.0, 10.0)), runs["plain"]
        source = outdated(context, seed, base=old)
        gates.append(solved(source))
        if number == 0:
            arm = few(new, seed, updates=bench.LONG_UPDATES)
            runs["untuned"] = recycled(context, arm, None, None, blank(context, source, seed), LOGITS)
            against.append(score(best) - score(runs["untuned"]))
        gains.append(score(best) - score(plain))
        losses.append(loss(best) - loss(plain))
        records += [{"base": new, "arm": name, "score": score(run), "loss": loss(run)} for name, run in runs.items()]
    controls = {"loss": fmean(losses), "untuned": fmean(against)}
    return Effects(fmean(gains), controls, {"solved": fmean(gates), "room": score(runs["plain"])}, records)


def layers_help(context: Context, seed: int) -> Effects:
    """C10: the layer-wise term in addition, its weight chosen on dev."""
    further, losses, plain, records, gates = [], [], [], [], []
    for number, (old, new) in enumerate(SERIES):
        runs = taught(context, seed, (0.0, 10.0, 50.0, 100.0), number=number)
        best = chosen(runs, (10.0, 50.0, 100.0))
        further.append(score(best) - score(runs["0"]))
        losses.append(loss(best) - loss(runs["0"]))
        plain.append(score(best) - score(runs["plain"]))
        gates.append(solved(outdated(context, seed, base=old)))
        records += [{"base": new, "arm": name, "score": score(run), "loss": loss(run)} for name, run in runs.items()]
    controls = {"loss": fmean(losses), "plain": fmean(plain)}
    return Effects(fmean(further), controls, {"solved": fmean(gates), "room": score(runs["plain"])}, records)


def adapters_alike(context: Context, seed: int) -> Effects:
    """C12: C1, C3, C6 and C9 with adapters."""
    first, third, sixth = (run(context, seed, kind="Houlsby") for run in (compatible, connected, speeds_up))
    runs = taught(context, seed, (0.0, 10.0), "Houlsby")
    gain = score(chosen(runs, (0.0, 10.0))) - score(runs["plain"])
    controls = {
        "C1 head": _number(first.controls["head"]),
        "C3 barrier": _number(third.effect),
        "C3 independent": _number(third.controls["independent"]),
        "C6 updates": _number(sixth.effect),
        "C6 fresh head": _number(sixth.controls["fresh_head"]),
        "C9 teacher": gain,
    }
    records = [{"claim": name, "value": value} for name, value in {"C1 apply": _number(first.effect), **controls}.items()]
    gates = {"solved": first.gates["solved"], "ends": third.gates["ends"]}
    return Effects(first.effect, controls, gates, records)


def _number(value: Any) -> float:
    return float(value)
