"""One score from a metric's name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics.definitions import DEFINITIONS


@dataclass(frozen=True)
class Score:
    """What a metric says.

    Args:
        value: the score; nan where it is not defined.
        per_example: score of each example, in order; None for a metric of the whole set alone. Of `Classification-F1` it is the
            accuracy.
        stderr: standard error of the value, where it is the mean of `per_example` over at least two examples; else None.
    """

    value: float
    per_example: list[float] | None = field(default=None, repr=False)
    stderr: float | None = None


def definition_name(metric: str, *, texts: bool = False) -> str:
    """`metric`, or its counterpart for texts.

    Raises:
        DeltatuneError: an unknown metric, or one that texts cannot be scored with.
    """
    if metric not in DEFINITIONS:
        near = difflib.get_close_matches(metric, DEFINITIONS, n=3, cutoff=0.4) or list(DEFINITIONS)
        raise DeltatuneError(f"unknown metric {metric!r}; near ones: {', '.join(near)}")
    definition = DEFINITIONS[metric]
    if not texts or definition.inputs == "texts":
        return metric
    if definition.as_text is None:
        raise DeltatuneError(f"metric {metric} does not score texts; take ACC or Classification-F1")
    return definition.as_text


def higher_is_better(metric: str) -> bool:
    """Whether a greater value of `metric`, a key of `DEFINITIONS`, is better."""
    return DEFINITIONS[metric].higher_is_better


def score(metric_name: str, predictions: Sequence[Any], references: Sequence[Any]) -> Score:
    """Score predictions.

    Args:
        metric_name: a key of `DEFINITIONS`. Where predictions are texts, `accuracy`, `macro_f1`, `matthews`, `pearson` and
            `spearman` give way to their counterparts for texts.
        predictions: (N) class numbers, values or texts, as the metric takes them.
        references: (N) class numbers or values; for a metric of texts (N) lists of accepted texts.

    Raises:
        DeltatuneError: an unknown metric, different lengths, or texts where the metric takes none.
    """
    name = definition_name(metric_name, texts=any(isinstance(prediction, str) for prediction in predictions))
    if len(predictions) != len(references):
        raise DeltatuneError(f"metric {name}: {len(predictions)} predictions but {len(references)} references")
    if not predictions:
        return Score(math.nan)
    one, corpus = DEFINITIONS[name].per_example, DEFINITIONS[name].corpus
    per_example = [one(*pair) for pair in zip(predictions, references, strict=True)] if one is not None else None
    if corpus is not None:
        return Score(float(corpus(predictions, references)), per_example)
    values = per_example or []
    return Score(math.fsum(values) / len(values), per_example, standard_error(values))


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean (N - 1 in the denominator of the variance); None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
