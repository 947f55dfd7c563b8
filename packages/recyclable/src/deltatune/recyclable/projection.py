"""Training-free upgrade of outdated weights (appendix of the paper): a low-rank affine map learnt on other tasks.

All tensors of a delta and its head are one vector v (d,). The upgraded vector is v W1 W2 + b, W1 (d, r), W2 (r, d), b (d,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import Weights, check_match, flatten, unflatten


@dataclass(frozen=True)
class Projection:
    """The map; float32.

    Args:
        down: W1 (d, r).
        up: W2 (r, d).
        bias: b (d,).
    """

    down: Tensor
    up: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        """Check shapes."""
        if self.down.T.shape != self.up.shape or self.bias.shape != self.down.shape[:1]:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (self.down, self.up, self.bias))
            raise DeltatuneError(f"a projection is W1 (d, r), W2 (r, d), b (d,), got {shapes}")

    def __call__(self, vector: Tensor) -> Tensor:
        """(d,) -> (d,). Differentiable."""
        return (vector @ self.down) @ self.up + self.bias


def draw(size: int, rank: int, generator: torch.Generator, std: float = 0.02) -> Projection:
    """The published start: all entries N(0, 0.02^2)."""
    shapes = ((size, rank), (rank, size), (size,))
    return Projection(*(torch.randn(shape, generator=generator) * std for shape in shapes))


def project(projection: Projection, weights: Weights, share: float = 1.0) -> dict[str, Tensor]:
    """The point share * (v W1 W2 + b) + (1 - share) * v, under the names of `weights`, in their order.

    Raises:
        DeltatuneError: the projection is for vectors of another length.
    """
    vector = flatten(weights)
    if vector.shape != projection.bias.shape:
        raise DeltatuneError(
            f"the projection is for {len(projection.bias):,} values and the delta has {len(vector):,}; take a delta of its kind"
        )
    return unflatten(share * projection(vector) + (1 - share) * vector, weights)


def learn(old: Sequence[Weights], new: Sequence[Weights], rank: int, ridge: float = 1e-3) -> Projection:
    """The projection of rank at most `rank` that best maps the old weights of some tasks to their new ones.

    Least squares with a ridge on W1 W2, solved in closed form over the few tasks: with centred rows V (n, d) and U (n, d),
    W = V^T (V V^T + lambda I)^-1 U, cut to `rank` by its leading singular directions; b maps the mean to the mean.

    Args:
        old: a delta for each task, tuned on the old base, one kind and size.
        new: the same tasks' deltas on the new base, in the same order.
        rank: r; more than n - 1 is not reached, since n tasks span no more.
        ridge: lambda as a share of the mean squared length of the rows of V.

    Raises:
        DeltatuneError: fewer than two tasks, unequal numbers of them, other names or shapes.
    """
    if len(old) < 2 or len(old) != len(new):
        raise DeltatuneError(
            f"a projection is learnt from at least two tasks with old and new deltas, got {len(old)}, {len(new)}"
        )
    if rank < 1:
        raise DeltatuneError(f"the rank of a projection must be at least 1, got {rank}")
    for other in (*old[1:], *new):
        check_match(old[0], other, "the deltas of the tasks")
    before, after = (torch.stack([flatten(weights) for weights in side]).double() for side in (old, new))
    centre, target = before.mean(dim=0), after.mean(dim=0)
    rows, wanted = before - centre, after - target
    gram = rows @ rows.T
    scale = gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    answers = torch.linalg.solve(gram + ridge * scale * torch.eye(len(gram), dtype=gram.dtype), wanted)
    # W = rows^T answers; both factors are thin, so its singular vectors come from two thin decompositions.
    left, upper = torch.linalg.qr(rows.T)
    inner, values, right = torch.linalg.svd(upper @ answers, full_matrices=False)
    keep = min(rank, int((values > 1e-12 * values[:1].clamp(min=1e-300)).sum()) or 1)
    down, up = left @ (inner[:, :keep] * values[:keep]), right[:keep]
    bias = target - (centre @ down) @ up
    return Projection(down.float(), up.float(), bias.float())
