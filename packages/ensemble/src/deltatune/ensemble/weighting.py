"""From scores to weights: w(t, .) = softmax(sign * score(t, .) / T) over the sources but the target's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from deltatune.core.errors import DeltatuneError


@dataclass(frozen=True)
class Softening:
    """How scores become weights.

    Args:
        temperature: T of the softmax; 0 gives everything to the best source, infinity the same to all.
        top_k: keep the k best sources only; None keeps all.
        standardise: divide the scores of each target by their standard deviation first, so that one T suits measures of any size
            and targets of any length of answer.
        floor: share of the weight that is given to all sources alike, from 0 to 1.
    """

    temperature: float = 0.1
    top_k: int | None = None
    standardise: bool = False
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if math.isnan(self.temperature) or self.temperature < 0:
            raise DeltatuneError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise DeltatuneError(f"top_k must be at least 1 or null, got {self.top_k}")
        if not 0 <= self.floor <= 1:
            raise DeltatuneError(f"floor must be from 0 to 1, got {self.floor}")


def soften(scores: Mapping[str, float], sign: int, how: Softening) -> dict[str, float]:
    """The weights of the sources in `scores`: positive, sum 1, computed in float32 as published.

    Args:
        scores: source -> score.
        sign: +1 if larger scores are better, -1 if smaller ones are.
        how: temperature and what else is done to them.

    Raises:
        DeltatuneError: no source, or a score that is not finite.
    """
    if not scores:
        raise DeltatuneError("no source to weigh: the target's own source is never used; give more sources")
    for name, value in scores.items():
        if not math.isfinite(value):
            raise DeltatuneError(f"the score of source {name} is {value}; leave that source out")
    goodness = sign * torch.tensor(list(scores.values()), dtype=torch.float32)
    if how.standardise and len(goodness) > 1 and float(goodness.std()) > 0:
        goodness = goodness / goodness.std()
    if how.top_k is not None and how.top_k < len(goodness):
        kept = torch.topk(goodness, how.top_k).indices
        goodness = torch.full_like(goodness, -math.inf).index_copy(0, kept, goodness[kept])
    weights = _softmax(goodness, how.temperature)
    shared = how.floor / len(weights)
    return {name: (1 - how.floor) * float(weight) + shared for name, weight in zip(scores, weights, strict=True)}


def _softmax(goodness: torch.Tensor, temperature: float) -> torch.Tensor:
    """With the two limits: T = 0 shares everything among the best, T = infinity among all that are kept."""
    if temperature == 0:
        best = (goodness == goodness.max()).float()
        return best / best.sum()
    if math.isinf(temperature):
        kept = torch.isfinite(goodness).float()
        return kept / kept.sum()
    return torch.softmax(goodness / temperature, dim=0)


def uniform(sources: Sequence[str]) -> dict[str, float]:
    """Equal weights.

    Raises:
        DeltatuneError: no source.
    """
    if not sources:
        raise DeltatuneError("no source to average: the target's own source is never used; give more sources")
    return dict.fromkeys(sources, 1 / len(sources))


def manual_division(target: str, sources: Mapping[str, str], taxonomy: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Equal weights for the sources whose task is in the target's category, 0 for the others.

    Args:
        target: its task.
        sources: source -> its task, without the target's own.
        taxonomy: category -> its tasks.

    Raises:
        DeltatuneError: the target is in no category, or alone in it among the sources.
    """
    category = next((name for name, tasks in taxonomy.items() if target in tasks), None)
    if category is None:
        raise DeltatuneError(f"task {target} is in no category of the taxonomy ({', '.join(taxonomy)}); add it to one")
    inside = [name for name, task in sources.items() if task in taxonomy[category]]
    if not inside:
        raise DeltatuneError(
            f"no source shares the category {category} of task {target}; use the uniform average, or add sources"
        )
    return {name: 1 / len(inside) if name in inside else 0.0 for name in sources}


def effective_number(weights: Mapping[str, float]) -> float:
    """How many sources a weighting amounts to, exp(H(w)): 1 if one has everything, n if n have equal shares."""
    return math.exp(-math.fsum(w * math.log(w) for w in weights.values() if w > 0))
