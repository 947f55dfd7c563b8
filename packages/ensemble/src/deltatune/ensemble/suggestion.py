"""Which mixture of the sources to start from: every weighting tried on examples that it was not made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from scipy import stats

from deltatune.core.errors import DeltatuneError
from deltatune.core.evidence import deal
from deltatune.ensemble.bench import Prepared
from deltatune.ensemble.crossing import Crossing, with_examples
from deltatune.ensemble.measures import MEASURES
from deltatune.ensemble.mixture import choose, learn, losses, mixture
from deltatune.ensemble.modules import WHOLE
from deltatune.ensemble.scoring import Budget, score_sources
from deltatune.ensemble.sources import others
from deltatune.ensemble.weighting import Softening, soften, uniform

LEAST = 16  # examples
SINGLE, UNIFORM, LEARNED = "best single", "uniform", "learned"
BUDGET = Budget("train", reduction="mean", grand_batch_size=1)
TEMPERATURES = (0.1, 0.3, 1.0, 3.0)  # of scores divided by their standard deviation


@dataclass(frozen=True)
class Weighted:
    """The weights that one way of weighing gives.

    Args:
        weights: source -> weight.
        temperature: that was chosen; None where there is none.
    """

    weights: dict[str, float]
    temperature: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What the examples say of one way of weighing.

    Args:
        name: of the measure, or uniform, best single, learned.
        held_out: loss of each example under mixtures that were made without it.
        gain: mean of uniform's loss minus this one's over the same examples; positive is better than uniform.
        low: lower end of the 95% interval of the gain.
        high: upper end.
    """

    name: str
    held_out: tuple[float, ...]
    gain: float
    low: float
    high: float

    @property
    def loss(self) -> float:
        """Mean held-out loss."""
        return math.fsum(self.held_out) / len(self.held_out)


@dataclass(frozen=True)
class Suggestion:
    """The outcome.

    Args:
        chosen: name of the way of weighing with the lowest held-out loss.
        weights: each way's weights from all examples.
        evidence: each way's, best first.
    """

    chosen: str
    weights: dict[str, Weighted]
    evidence: list[Evidence]

    @property
    def sure(self) -> bool:
        """Whether the interval says that the chosen one is better than uniform weights."""
        return self.evidence[0].low > 0


def suggest(
    prepared: Prepared, measures: Sequence[str], folds: int = 4, top_k: int | None = None, learned: bool = True
) -> Suggestion:
    """Weigh the sources in every way, by cross-validation over the target's training examples; dev and test are not looked at.

    Of each fold the other examples give scores, temperature and (where heads are fitted) head; the fold's own examples give the
    held-out loss of the mixture. The weights that are returned come from all examples.

    Args:
        prepared: the target with its sources.
        measures: names of measures that need examples alone.
        folds: parts of the examples.
        top_k: keep the k best sources only.
        learned: also learn the weights by gradient.

    Raises:
        DeltatuneError: fewer than 16 examples, or a measure that needs more than examples.
    """
    for name in measures:
        if name not in MEASURES or MEASURES[name].needs not in ("examples", "gradients"):
            usable = [item.name for item in MEASURES.values() if item.needs in ("examples", "gradients")]
            raise DeltatuneError(f"--measures {name}: suggest takes measures that need examples alone: {', '.join(usable)}")
    examples = prepared.target.task.train
    if len(examples) < LEAST:
        raise DeltatuneError(
            f"task {prepared.name} has {len(examples)} training examples, and a suggestion needs {LEAST}; label some more"
        )
    if not 2 <= folds <= len(examples) // 4:
        raise DeltatuneError(f"--folds must be from 2 to {len(examples) // 4} with {len(examples)} examples, got {folds}")
    held: dict[str, dict[int, float]] = {}
    parts = deal(examples, folds)
    for part in parts:
        inside = set(part)
        rest = [examples[i] for i in range(len(examples)) if i not in inside]
        fold = with_examples(prepared, rest, [examples[i] for i in part])
        for name, found in weigh(fold, measures, top_k, learned).items():
            values = losses(fold.target, mixture(fold, found.weights), fold.target.task.dev)
            held.setdefault(name, {}).update(zip(part, values, strict=True))
    evidence = [compare(name, _in_order(found), _in_order(held[UNIFORM])) for name, found in held.items()]
    evidence.sort(key=lambda item: item.loss)
    final = weigh(with_examples(prepared, list(examples), list(examples)), measures, top_k, learned)
    return Suggestion(evidence[0].name, final, evidence)


def weigh(prepared: Prepared, measures: Sequence[str], top_k: int | None, learned: bool) -> dict[str, Weighted]:
    """The weights of every way of weighing, from the training examples of `prepared` alone.

    Where a head is fitted for each source, each example is scored by a head that was fitted to others.
    """
    names = list(others(dict(prepared.sources), prepared.name))
    wanted = list(dict.fromkeys(["loss", *(MEASURES[name].scores for name in measures)]))
    crossing = Crossing.of(prepared) if prepared.head == "probe" else None
    train = prepared.target.task.train
    inner = with_examples(prepared, train, train)
    scores = crossing.scores(names, wanted) if crossing is not None else _scores(inner, names, wanted)
    found = {UNIFORM: Weighted(uniform(names))}
    found[SINGLE] = Weighted(soften(scores["loss"], -1, Softening(0.0, top_k=1)), 0.0)
    how = Softening(top_k=top_k, standardise=True)
    for measure in measures:
        item = MEASURES[measure]
        row = scores[item.scores]
        best, _ = choose(inner, row, item.sign, how, TEMPERATURES, crossing.loss if crossing is not None else None)
        found[measure] = Weighted(soften(row, item.sign, replace(how, temperature=best)), best)
    if learned:
        found[LEARNED] = Weighted(learn(prepared, names, train))
    return found


def _scores(prepared: Prepared, names: Sequence[str], wanted: Sequence[str]) -> dict[str, dict[str, float]]:
    found = score_sources(prepared.target, {name: prepared.complete(name) for name in names}, wanted)
    return {measure: {name: row[WHOLE] for name, row in rows.items()} for measure, rows in found.items()}


def compare(name: str, held_out: Sequence[float], even: Sequence[float]) -> Evidence:
    """The gain over uniform weights on the same examples, with a 95% t interval."""
    gains = torch.tensor(even, dtype=torch.float64) - torch.tensor(held_out, dtype=torch.float64)
    mean, half = float(gains.mean()), 0.0
    if len(gains) > 1:
        half = float(stats.t.ppf(0.975, len(gains) - 1)) * float(gains.std()) / math.sqrt(len(gains))
    return Evidence(name, tuple(held_out), mean, mean - half, mean + half)


def _in_order(values: Mapping[int, float]) -> list[float]:
    return [values[i] for i in sorted(values)]
