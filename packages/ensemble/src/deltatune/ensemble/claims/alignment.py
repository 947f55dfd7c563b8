"""C14, the control of all others: sources whose hidden units stand in one order, and the same tasks' sources without that."""

from __future__ import annotations

from statistics import fmean

from deltatune.core.claims import Context, Effects
from deltatune.ensemble.claims import bench
from deltatune.ensemble.claims.bench import Case
from deltatune.ensemble.claims.starts import RANDOM, Start, means, untuned
from deltatune.ensemble.claims.transfer import minus, scored


def one_start_is_needed(context: Context, seed: int) -> Effects:
    """What averages and mixtures lose where each source was tuned from initial values of its own."""
    starts = {f"{way} {pool}": Start(way, pool) for way in ("average", "loss") for pool in ("few", "apart")}
    starts["average shuffled"] = Start("average", "shuffled")
    arms = {name: scored(context, seed, start, bench.ROOMY) for name, start in starts.items()}
    arms["random"] = scored(context, seed, RANDOM, bench.ROOMY)
    lost = {way: minus(arms[f"{way} few"], arms[f"{way} apart"]) for way in ("average", "loss")}
    before = {
        name: fmean(untuned(context, Case(target, seed), starts[name]) for target in bench.ROOMY)
        for name in ("average few", "average apart", "average shuffled")
    }
    controls = {
        "average": lost["average"],
        "weighted": lost["loss"],
        "shuffled": minus(arms["average few"], arms["average shuffled"]),
    }
    records = [{"arm": arm, "target": target, "score": score} for arm, row in arms.items() for target, score in row.items()]
    records += [{"arm": f"{name}, untuned (dev)", "target": "mean", "score": score} for name, score in before.items()]
    gates = {"solved": bench.solved(names=bench.FEW), "alike": _quality(context)}
    return Effects(means([lost["average"], lost["loss"]]), controls, gates, records)


def _quality(context: Context) -> float:
    """How far the two sets of sources are apart on their own tasks, in points, mean over tasks."""
    case = Case(bench.TARGETS[0], 0)
    sets = [bench.pool(context, name, case) for name in ("few", "apart")]
    one, other = ({n: 100 * s.saved.about["scores"]["test"]["value"] for n, s in found.items()} for found in sets)
    return abs(fmean(minus(one, other).values()))
