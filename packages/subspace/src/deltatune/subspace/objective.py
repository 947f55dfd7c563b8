"""The objective of subspace approximation.

T deltas of one task have points P_t. With shares c (non-negative, sum 1), P_mix = sum c_t P_t, and

    L = sum_t ( weight * R(x_t, V_t P_t) + CE(model with init_t + V_t P_mix) )

R is the Euclidean norm of the difference as published: neither squared nor averaged, so that its gradient has constant length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.subspace.projections import Activation, Projection

Mixing = Literal["stick", "dirichlet", "own"]
Reconstruction = Literal["l2norm", "mse", "relative"]
Terms = Literal["both", "task", "reconstruction"]
Draw = Literal["auto", "batch", "task", "example"]


@dataclass(frozen=True)
class Objective:
    """What subspace approximation minimises.

    Args:
        weight: of the reconstruction terms (published: `reconstruct_alpha`, 0.1 for one task and 10 for many).
        reconstruction: l2norm (published), mse, or relative: the norm as a share of the length of the delta.
        mixing: stick, as published (of three the first has 1/2 on average, the others 1/4); dirichlet, uniform on the simplex;
            own, no mixing: every delta is decoded from its own point.
        draw: what has shares of its own: every example, every task of a batch, or every batch; auto is batch for one task and
            example for several, as published.
        terms: both, or one kind alone.
        shared_second_layer: the first delta's encoder ends in the second delta's layer, a defect of the published multi-task
            program.
        activation: inside the encoders.
    """

    weight: float = 0.1
    reconstruction: Reconstruction = "l2norm"
    mixing: Mixing = "stick"
    draw: Draw = "auto"
    terms: Terms = "both"
    shared_second_layer: bool = False
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.weight >= 0:
            raise DeltatuneError(f"objective.weight must not be negative, got {self.weight:g}")


def stick(uniform: Tensor) -> Tensor:
    """Shares (T,) from uniform numbers (T - 1,) in [0, 1): each takes its part of what is left, the last takes the rest."""
    left = torch.ones((), dtype=uniform.dtype)
    shares = []
    for part in uniform:
        shares.append(part * left)
        left = left - shares[-1]
    return torch.stack([*shares, left])


def shares(mixing: Mixing, count: int, generator: torch.Generator) -> Tensor:
    """The weight of each source point (column) in the point that each delta is decoded from (row), (T, T) float32."""
    if mixing == "own":
        return torch.eye(count)
    if mixing == "stick":
        row = stick(torch.rand(count - 1, generator=generator))
    else:
        row = -torch.rand(count, generator=generator).clamp(min=1e-30).log()
        row = row / row.sum()
    return row.expand(count, count).clone()


def encode_all(projections: Sequence[Projection], vectors: Sequence[Tensor], objective: Objective) -> Tensor:
    """The points (T, ..., k) of deltas of each kind, (..., D_t) each. Differentiable."""
    points = []
    for number, (projection, vector) in enumerate(zip(projections, vectors, strict=True)):
        second = projections[1] if objective.shared_second_layer and number == 0 and len(projections) > 1 else None
        points.append(projection.encode(vector, objective.activation, second))
    return torch.stack(points)


def reconstruction(kind: Reconstruction, vector: Tensor, decoded: Tensor) -> Tensor:
    """R (...,) of deltas (..., D) and what their points are decoded into."""
    gap = vector - decoded
    if kind == "mse":
        return gap.square().mean(dim=-1)
    norm: Tensor = torch.linalg.vector_norm(gap, dim=-1)
    return norm if kind == "l2norm" else norm / torch.linalg.vector_norm(vector, dim=-1).clamp(min=1e-12)


def reconstructions(kind: Reconstruction, projections: Sequence[Projection], vectors: Sequence[Tensor], points: Tensor) -> Tensor:
    """R (T, ...) of deltas of each kind, (..., D_t) each, from their own points (T, ..., k)."""
    rows = zip(projections, vectors, points, strict=True)
    return torch.stack([reconstruction(kind, vector, own.decode(point)) for own, vector, point in rows])


def total(objective: Objective, rebuilt: Tensor, tasks: Tensor) -> Tensor:
    """L from R (T,) and the task losses (T,)."""
    loss = torch.zeros((), device=rebuilt.device)
    if objective.terms != "task":
        loss = loss + objective.weight * rebuilt.sum()
    if objective.terms != "reconstruction":
        loss = loss + tasks.sum()
    return loss


def spread(points: Tensor) -> float:
    """Mean Euclidean distance of the pairs among the points (T, k); reported, not trained. 0 of a single point."""
    return float(torch.nn.functional.pdist(points.detach().float()).mean()) if len(points) > 1 else 0.0
