"""Scores that are read off weights and short tuning runs: cosine of weights, Euclidean, Performance."""

from __future__ import annotations

import math
from collections.abc import Mapping

from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import Weights, check_match

_EPS = 1e-8


def weight_cosine(tuned: Weights, source: Weights) -> float:
    """Mean over the tensors of the cosine of each, not the cosine of all as one vector.

    Args:
        tuned: the delta that was tuned on the target.
        source: the source's, of the same names and shapes.
    """
    check_match(tuned, source, "the delta tuned on the target and the source")
    cosines = []
    for name, tensor in tuned.items():
        left, right = tensor.double().flatten(), source[name].double().flatten()
        cosines.append(float(left @ right) / max(float(left.norm() * right.norm()), _EPS))
    return math.fsum(cosines) / len(cosines)


def movement(source: Weights, tuned: Weights) -> float:
    """Sum over the tensors of the Euclidean length of each tensor's change: how far tuning moved the source."""
    check_match(source, tuned, "the source and itself tuned on the target")
    return math.fsum(float((tensor.double() - tuned[name].double()).norm()) for name, tensor in source.items())


def gain(tuned: Mapping[str, float], zero_shot: Mapping[str, float]) -> dict[str, float]:
    """Dev score after tuning minus before, by source; joined by name (the published program joined by line).

    Raises:
        DeltatuneError: a source has only one of the two.
    """
    for name in {*tuned} ^ {*zero_shot}:
        lacking = "before" if name in tuned else "after"
        raise DeltatuneError(f"performance: source {name} has no dev score {lacking} tuning; score it first")
    return {name: tuned[name] - zero_shot[name] for name in tuned}
