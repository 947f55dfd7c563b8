"""From scores to starts: what each way of weighing makes of a pool of sources, and what comes of tuning from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.core.claims import Context
from deltatune.ensemble.claims import bench
from deltatune.ensemble.claims.bench import Case, Pool, Run

if TYPE_CHECKING:
    from torch import Tensor

    from deltatune.ensemble.bench import Prepared
    from deltatune.ensemble.modules import By
    from deltatune.ensemble.sources import Source

PREDICTED, REFERRED, TRIED = ("loss", "el2n", "label_cosine"), ("kl", "weight_cosine"), ("euclidean", "performance")
FIVE = (*PREDICTED, "grand", "kl")
"""The paper's five methods."""


@dataclass(frozen=True)
class Start:
    """What tuning starts from.

    Args:
        way: random: the sources' initial values; average, manual; the name of a measure; single: the source of the lowest loss;
            dealt: the weights that `loss` gives, dealt to the sources at random; source: `source` alone.
        pool: which sources.
        source: the one.
        module: of `grand`, the sub-layer that its gradients are of; empty for the whole delta.
    """

    way: str
    pool: Pool = "all"
    source: str = ""
    module: str = ""

    def key(self) -> dict[str, Any]:
        """Everything that decides it beside the target, as plain values."""
        names = bench.SOURCES if self.pool == "all" else bench.FEW
        more = {"temperatures": bench.TEMPERATURES, "examples": bench.EXAMPLES} if self.way not in _PLAIN else {}
        return {**asdict(self), "names": names, **more}


_PLAIN = ("random", "average", "manual", "source")
RANDOM, AVERAGE, MANUAL, LOSS = Start("random"), Start("average"), Start("manual"), Start("loss")


def scores(context: Context, case: Case, pool: Pool, measure: str, by: By = "whole") -> dict[str, dict[str, float]]:
    """Scores of the foreign sources on dev: source -> module -> score (`all`, where the whole delta has one).

    Measures that share a pass over the examples are computed together.
    """
    together = next((group for group in (PREDICTED, REFERRED) if measure in group), (measure,))
    key = {"ensemble scores": together, "by": by, "start": Start("score", pool).key(), **case.key()}

    def make() -> Any:
        from deltatune.ensemble.scoring import score_sources

        sources = bench.pool(pool, case)
        reference = _weights_of(outcome(context, case, RANDOM)[1]) if together == REFERRED else None
        target = bench.prepared(case, sources, reference).target
        return score_sources(target, {name: one.delta for name, one in sources.items()}, together, by)

    found: dict[str, dict[str, float]] = context.store.get(key, make)[measure]
    return found


def whole(context: Context, case: Case, pool: Pool, measure: str) -> dict[str, float]:
    """One score of each foreign source."""
    if measure in TRIED:
        return tried(context, case, pool, measure)
    return {name: row["all"] for name, row in scores(context, case, pool, measure).items()}


def tried(context: Context, case: Case, pool: Pool, measure: str) -> dict[str, float]:
    """Scores from tuning each source on the target: how far it moves, or what it gains on dev, as a share of 1."""
    from deltatune.ensemble.weight_scores import gain, movement

    sources = bench.pool(pool, case)
    runs = {name: outcome(context, case, Start("source", pool, name)) for name in sources}
    if measure == "euclidean":
        return {name: movement(sources[name].delta, _weights_of(path)) for name, (_, path) in runs.items()}
    before = {name: untuned(context, case, Start("source", pool, name)) / 100 for name in sources}
    return gain({name: run["dev"] / 100 for name, (run, _) in runs.items()}, before)


def weighted(context: Context, case: Case, start: Start) -> dict[str, Any]:
    """`weights` of the sources, the `temperature` that is best on dev (null where there is none) and the `losses` of all."""
    found: dict[str, Any] = context.store.get(
        {"ensemble weights": start.key(), **case.key()}, lambda: _weighted(context, case, start)
    )
    return found


def _weighted(context: Context, case: Case, start: Start) -> dict[str, Any]:
    from deltatune.ensemble.measures import MEASURES
    from deltatune.ensemble.mixture import choose
    from deltatune.ensemble.weighting import Softening, manual_division, soften, uniform

    sources = bench.pool(start.pool, case)
    if start.way == "average":
        return {"weights": uniform(list(sources)), "temperature": None, "losses": {}}
    if start.way == "manual":
        families = {family: [f"{family}-{number}" for number in range(4)] for family in bench.FAMILIES}
        return {"weights": manual_division(case.target, {n: n for n in sources}, families), "temperature": None, "losses": {}}
    if start.way == "single":
        row = whole(context, case, start.pool, "loss")
        return {"weights": soften(row, -1, Softening(0.0, top_k=1)), "temperature": 0.0, "losses": {}}
    if start.way == "dealt":
        return _dealt(weighted(context, case, replace(start, way="loss")), case.seed)
    measure = MEASURES[start.way]
    if start.module:
        row = {n: found[start.module] for n, found in scores(context, case, start.pool, start.way, "sublayer").items()}
    else:
        row = whole(context, case, start.pool, start.way)
    ready = bench.prepared(case, _merged(context, case, start, sources))
    best, losses = choose(ready, row, measure.sign, Softening(), bench.TEMPERATURES)
    weights = soften(row, measure.sign, Softening(best))
    return {"weights": weights, "temperature": best, "losses": {str(temperature): loss for temperature, loss in losses.items()}}


def _dealt(found: dict[str, Any], seed: int) -> dict[str, Any]:
    import numpy as np

    names = list(found["weights"])
    order = np.random.default_rng(seed).permutation(len(names))
    return {**found, "weights": {names[place]: found["weights"][name] for place, name in zip(order, names, strict=True)}}


def _merged(context: Context, case: Case, start: Start, sources: Mapping[str, Source]) -> dict[str, Source]:
    """What the weights are for: the sources, or (Performance) the sources tuned on the target."""
    if start.way != "performance":
        return dict(sources)
    return {name: bench.source(name, outcome(context, case, Start("source", start.pool, name))[1]) for name in sources}


def mixture_of(ready: Prepared, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The weighted sum of the sources of `ready`."""
    from deltatune.ensemble.mixture import mixture

    return mixture(ready, weights)


def values(context: Context, case: Case, start: Start) -> Mapping[str, Tensor] | None:
    """The values that tuning starts from; None where these are the sources' initial ones."""
    if start.way == "random":
        return None
    sources = bench.pool(start.pool, case)
    if start.way == "source":
        return sources[start.source].delta
    return mixture_of(bench.prepared(case, _merged(context, case, start, sources)), weighted(context, case, start)["weights"])


def outcome(context: Context, case: Case, start: Start) -> tuple[Run, Path]:
    """Tune the target from `start`: what came of it, and the folder of the tuned delta."""
    return bench.tune_from(context, case, start.key(), lambda: values(context, case, start))


def test_score(context: Context, case: Case, start: Start) -> float:
    """After tuning, in points."""
    return float(outcome(context, case, start)[0]["test"])


def untuned(context: Context, case: Case, start: Start) -> float:
    """Before tuning, on dev, in points; scored only where somebody asks."""

    def score() -> float:
        from deltatune.core.evaluation import evaluate

        here, target = bench.begun(case, values(context, case, start))
        return 100 * evaluate(here.tuned, target.form, target.task.dev).value

    return float(context.store.get({"ensemble untuned": start.key(), **case.key()}, score))


def _weights_of(path: Path) -> dict[str, Tensor]:
    from deltatune.core import checkpoint

    return checkpoint.read(path).weights


def means(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of several mappings from target to number, target by target."""
    return {target: sum(run[target] for run in runs) / len(runs) for target in runs[0]}
