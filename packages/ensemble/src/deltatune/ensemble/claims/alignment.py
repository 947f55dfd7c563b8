"""C14, the control of all others: sources whose hidden units stand in one order, and the same tasks' sources without that."""

from __future__ import annotations

from statistics import fmean

from deltatune.core.claims import Context, Effects
from deltatune.ensemble.claims import bench
from deltatune.ensemble.claims.bench import Case
from deltatune.ensemble.claims.starts import RANDOM, Start, means, test_score, untuned
from deltatune.ensemble.claims.transfer import minus


def one_start_is_needed(context: Context, seed: int) -> Effects:
    """What averages and mixtures lose where each source was tuned from initial values of its own."""
    starts = {f"{way} {pool}": Start(way, pool) for way in ("average", "loss") for pool in ("few", "apart")}
    starts["average shuffled"] = Start("average", "shuffled")
    cases = [Case(target, seed, brief=True) for target in bench.ROOMY]
    every = {**starts, "random": RANDOM}
    arms = {name: {case.target: test_score(context, case, start) for case in cases} for name, start in every.items()}
    lost = {way: minus(arms[f"{way} few"], arms[f"{way} apart"]) for way in ("average", "loss")}
    before = {
        name: fmean(untuned(context, case, starts[name]) for case in cases)
        for name in ("average few", "average apart", "average shuffled")
    }
    controls = {
        "average": lost["average"],
        "weighted": lost["loss"],
        "shuffled": minus(arms["average few"], arms["average shuffled"]),
    }
    records = [{"arm": arm, "target": target, "score": score} for arm, row in arms.items() for target, score in row.items()]
    records += [{"arm": f"{name}, untuned (dev)", "target": "mean", "score": score} for name, score in before.items()]
    gates = {"solved": bench.solved(names=bench.FEW), "alike": _quality()}
    return Effects(means([lost["average"], lost["loss"]]), controls, gates, records)


def _quality() -> float:
    """How far the two sets of sources are apart on their own tasks, in points, mean over tasks."""
    case = Case(bench.TARGETS[0], 0)
    sets = [bench.pool(name, case) for name in ("few", "apart")]
    one, other = ({n: 100 * s.saved.about["scores"]["test"]["value"] for n, s in found.items()} for found in sets)
    return abs(fmean(minus(one, other).values()))
