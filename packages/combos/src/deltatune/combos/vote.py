"""One prediction of several templates or models: mean of their logits, and candidates ranked by their dev scores."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError


@dataclass(frozen=True)
class Spread:
    """Mean, population standard deviation and median of scores."""

    mean: float
    deviation: float
    median: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one score."""
        return cls(statistics.fmean(values), statistics.pstdev(values), statistics.median(values))


def best_by(scores: Mapping[Hashable, float]) -> Hashable:
    """The key with the greatest dev score, the first of equal ones; nan is never greater."""
    if not scores:
        raise DeltatuneError("vote: no run to choose from")
    return max(scores, key=lambda key: -math.inf if math.isnan(scores[key]) else scores[key])


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """The mean of several models' logits for the same examples, each (N, C) or (N,) values of a regression.

    Raises:
        DeltatuneError: none, or of different shapes.
    """
    shapes = {tuple(item.shape) for item in logits}
    if len(shapes) != 1:
        raise DeltatuneError(
            f"vote: the models' outputs must be of one shape, got {sorted(shapes) or 'none'}; score the same examples"
        )
    return torch.stack([item.double() for item in logits]).mean(dim=0)


def predictions(logits: Sequence[Tensor]) -> list[int] | list[float]:
    """What the models say together: the class of the greatest mean logit, or the mean value (published: argmax, D36)."""
    mean = mean_logits(logits)
    values: list[int] | list[float] = (
        mean.argmax(dim=1).tolist() if mean.dim() == 2 and mean.shape[1] > 1 else mean.flatten().tolist()
    )
    return values


def ranked(scores: Mapping[int, float]) -> list[tuple[int, float]]:
    """Candidates (number, dev score), best first, equal ones in their order."""
    return sorted(scores.items(), key=lambda item: -math.inf if math.isnan(item[1]) else item[1], reverse=True)


def first_of_each(scores: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Candidate -> score of its first run, where one was run several times."""
    found: dict[int, float] = {}
    for number, score in scores:
        found.setdefault(number, score)
    return found


def mapping_line(words: Mapping[str, str]) -> str:
    """Label words as a candidate file holds them: one JSON object a line."""
    return json.dumps(dict(words), ensure_ascii=False)
