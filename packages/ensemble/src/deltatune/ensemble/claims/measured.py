"""Experiments on scores: C4, C6, C7, C8 and C10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from deltatune.core.claims import Context, Effects, Measured
from deltatune.ensemble.claims import bench
from deltatune.ensemble.claims.bench import Case
from deltatune.ensemble.claims.starts import FIVE, PREDICTED, Start, mixture_of, outcome, test_score, whole

NEAR = tuple(f"{family}-{number}" for family in bench.FAMILIES for number in (1, 2))
"""Targets of C4, whose nearest source is asked for: two of each kind."""
ENDS, INTERIOR = (0.0, float("inf")), (0.01, 0.1, 1.0, 10.0)
PUBLISHED_T = 0.1
PERMUTATIONS = 1000


def signed(name: str, row: Mapping[str, float]) -> dict[str, float]:
    """Scores, larger where the source suits better."""
    from deltatune.ensemble.measures import MEASURES

    return {source: MEASURES[name].sign * value for source, value in row.items()}


def family(name: str) -> str:
    """The kind of task."""
    return name.rpartition("-")[0]


def finds_the_category(context: Context, seed: int) -> Effects:
    """C4: whether the nearest foreign source is of the target's kind, and the weight on that kind at the published T."""
    from deltatune.ensemble.weighting import Softening, soften

    inside = len(bench.SOURCES) // len(bench.FAMILIES) - 1
    by_chance = 100 * inside / (len(bench.SOURCES) - 1)
    rows = {name: {t: signed(name, whole(context, Case(t, seed), "all", name)) for t in NEAR} for name in PREDICTED}
    nearest = {name: {t: max(row, key=lambda s: row[s]) for t, row in found.items()} for name, found in rows.items()}
    above = {
        name: {t: 100.0 * (family(source) == family(t)) - by_chance for t, source in found.items()}
        for name, found in nearest.items()
    }
    mass = {}
    for target, row in rows["loss"].items():
        weights = soften(row, 1, Softening(PUBLISHED_T))
        mass[target] = 100 * sum(weight for source, weight in weights.items() if family(source) == family(target)) - by_chance
    p = permuted(nearest["loss"], seed)
    records: list[dict[str, Any]] = [
        {"measure": name, "target": t, "nearest": s, "hit": family(s) == family(t)}
        for name, f in nearest.items()
        for t, s in f.items()
    ]
    records += [{"target": t, "scores": row, "mass": mass[t] + by_chance} for t, row in rows["loss"].items()] + [{"p": p}]
    controls = {"el2n": above["el2n"], "label_cosine": above["label_cosine"], "mass": mass}
    return Effects(above["loss"], controls, {"solved": bench.solved()}, records)


def permuted(nearest: Mapping[str, str], seed: int) -> float:
    """The share of permutations of the sources' kinds in which as many nearest sources are of the target's kind."""
    import numpy as np

    generator = np.random.default_rng(seed)
    families = [family(name) for name in bench.SOURCES]
    hits = sum(family(source) == family(target) for target, source in nearest.items())
    found = 0
    for _ in range(PERMUTATIONS):
        dealt = dict(zip(bench.SOURCES, generator.permutation(families), strict=True))
        found += sum(dealt[source] == dealt[target] for target, source in nearest.items()) >= hits
    return (found + 1) / (PERMUTATIONS + 1)


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's; 0 where one side is constant."""
    from scipy.stats import spearmanr

    if len(set(left)) < 2 or len(set(right)) < 2:
        return 0.0
    return float(spearmanr(left, right).statistic)


def measures_agree(context: Context, seed: int) -> Effects:
    """C6: rank correlation over sources of each pair of the five measures, signs turned to the same direction."""
    pairs: dict[str, dict[tuple[str, str], float]] = {}
    for target in bench.TARGETS:
        rows = {name: signed(name, whole(context, Case(target, seed), "all", name)) for name in FIVE}
        names = list(rows[FIVE[0]])
        ordered = {name: [row[source] for source in names] for name, row in rows.items()}
        pairs[target] = {(a, b): rank_correlation(ordered[a], ordered[b]) for a, b in combinations(FIVE, 2)}
    each = {name: {t: fmean(v for pair, v in row.items() if name in pair) for t, row in pairs.items()} for name in FIVE}
    records = [{"target": t, "left": a, "right": b, "correlation": v} for t, row in pairs.items() for (a, b), v in row.items()]
    return Effects({t: fmean(row.values()) for t, row in pairs.items()}, each, {"solved": bench.solved()}, records)


def predicts_transfer(context: Context, seed: int) -> Effects:
    """C7: rank correlation over sources of the negative loss and the test score of tuning from that source alone."""
    cases = {target: Case(target, seed, brief=True) for target in bench.ROOMY}
    rows = {t: signed("loss", whole(context, case, "few", "loss")) for t, case in cases.items()}
    effect, specific, records, scores = {}, {}, list[dict[str, Any]](), []
    for target, row in rows.items():
        runs = {name: outcome(context, cases[target], Start("source", "few", name))[0] for name in row}
        tested = [runs[name]["test"] for name in row]
        effect[target] = rank_correlation(list(row.values()), tested)
        strange = fmean(rank_correlation([rows[other][n] for n in row], tested) for other in rows if other != target)
        specific[target] = effect[target] - strange
        scores.append(max(tested) - min(tested))
        records += [
            {
                "target": target,
                "source": name,
                "loss": -row[name],
                "score": runs[name]["test"],
                "kind": family(name) == family(target),
            }
            for name in row
        ]
    gates = {"solved": bench.solved(), "spread": fmean(scores)}
    return Effects(effect, {"specific": specific}, gates, records)


def temperature(context: Context, seed: int) -> Effects:
    """C8: both limits of T, and the loss of mixtures at an interior T chosen on dev."""
    from deltatune.ensemble.mixture import losses
    from deltatune.ensemble.weighting import Softening, effective_number, soften

    gains: dict[str, dict[str, float]] = {"dev": {}, "test": {}}
    records: list[dict[str, Any]] = []
    limits = 0.0
    for target in bench.TARGETS:
        case = Case(target, seed)
        row = whole(context, case, "all", "loss")
        limits = max(limits, _limits(row))
        ready = bench.prepared(case, bench.pool("all", case))
        by_split: dict[str, dict[float, float]] = {"dev": {}, "test": {}}
        for t in (*ENDS, *INTERIOR):
            mixed = mixture_of(ready, soften(row, -1, Softening(t)))
            for split in by_split:
                each = losses(ready.target, mixed, getattr(ready.target.task, split))
                by_split[split][t] = fmean(each)
        best = min(INTERIOR, key=lambda t: by_split["dev"][t])
        for split, found_losses in by_split.items():
            gains[split][target] = min(found_losses[t] for t in ENDS) - found_losses[best]
        number = effective_number(soften(row, -1, Softening(PUBLISHED_T)))
        records.append({"target": target, "effective_number": number, "chosen": best})
        records += [{"target": target, "split": s, "T": str(t), "loss": v} for s, f in by_split.items() for t, v in f.items()]
    controls: dict[str, Measured] = {"dev": gains["dev"], "limits": round(limits, 6)}
    return Effects(gains["test"], controls, {"solved": bench.solved()}, records)


def _limits(row: Mapping[str, float]) -> float:
    """The largest error of the weights at both limits, those of T = 0 and infinity and those of a T near them."""
    from deltatune.ensemble.weighting import Softening, soften

    best = min(row, key=lambda name: row[name])
    error = 0.0
    for t in (0.0, 1e-12):
        error = max(error, *(abs(w - (name == best)) for name, w in soften(row, -1, Softening(t)).items()))
    for t in (float("inf"), 1e12):
        error = max(error, *(abs(w - 1 / len(row)) for w in soften(row, -1, Softening(t)).values()))
    return error


def modules_differ(context: Context, seed: int) -> Effects:
    """C10: the whole delta weighed by the gradients of one sub-layer, for each of them in turn."""
    from deltatune.ensemble.modules import places

    names = list(places(bench.stage("Houlsby").tuned.backbone, "sublayer"))
    cases = [Case(target, seed, brief=True) for target in bench.TARGETS]
    runs = {name: [outcome(context, case, Start("grand", module=name))[0] for case in cases] for name in names}
    table = {name: [run["test"] for run in found] for name, found in runs.items()}
    halves = [[fmean(row[start::2]) for row in table.values()] for start in (0, 1)]
    dev = {name: fmean(run["dev"] for run in found) for name, found in runs.items()}
    best = max(dev, key=lambda name: dev[name])
    whole_delta = fmean(test_score(context, case, Start("grand")) for case in cases)
    records = [
        {"module": name, "target": case.target, "score": v}
        for name, row in table.items()
        for case, v in zip(cases, row, strict=True)
    ]
    controls = {"variance": between_modules(list(table.values())), "whole": fmean(table[best]) - whole_delta}
    return Effects(rank_correlation(*halves), controls, {"solved": bench.solved()}, records)


def between_modules(table: Sequence[Sequence[float]]) -> float:
    """The variance of scores between modules (rows), beyond what targets (columns) and noise explain; 0 is expected without."""
    import numpy as np

    values = np.asarray(table)
    centred = values - values.mean(axis=0)
    means = centred.mean(axis=1)
    rest = centred - means[:, None]
    rows, columns = len(table), len(table[0])
    noise = float((rest**2).sum()) / ((rows - 1) * (columns - 1))
    return float(means.var(ddof=1)) - noise / columns
