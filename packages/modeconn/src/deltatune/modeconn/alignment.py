"""Symmetries of deltas: other values with the same function, which make two ends look farther apart than they are.

An adapter h + U f(D h + b) + c keeps its function when its hidden units are permuted. LoRA's update B A keeps its value under
(B M^-1)(M A) for any invertible M. Aligning an end moves it, without changing its function, to where it is nearest to the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deltatune.core.delta import LoRA
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import Weights, check_match

DOWN, UP, FACTOR_A, FACTOR_B = "houlsby_down.weight", "houlsby_up.weight", "lora_A.weight", "lora_B.weight"


def aligned(left: Weights, right: Weights) -> dict[str, Tensor]:
    """`right` with the hidden units of its adapters and the factors of its LoRA moved to where they are nearest to `left`.

    The function of `right` stays what it is; other tensors are untouched. The distance never grows.

    Raises:
        DeltatuneError: other names or shapes, or neither adapters nor LoRA.
    """
    check_match(left, right)
    found = dict(right)
    sites = [name for name in left if name.endswith((DOWN, FACTOR_A))]
    if not sites:
        raise DeltatuneError(
            "--align: neither adapters nor LoRA here, and no other delta has a symmetry that can be undone; leave it out"
        )
    for name in sites:
        if name.endswith(DOWN):
            _align_adapter(left, right, name.removesuffix(DOWN), found)
        else:
            other = name.removesuffix(FACTOR_A) + FACTOR_B
            found[name], found[other] = align_factors((left[name], left[other]), (right[name], right[other]))
    return found


def _align_adapter(left: Weights, right: Weights, site: str, found: dict[str, Tensor]) -> None:
    down, up, bias = site + DOWN, site + UP, site + "houlsby_down.bias"
    ends = [
        torch.cat([end[down].double(), end[up].double().T, *([end[bias].double()[:, None]] if bias in end else [])], dim=1)
        for end in (left, right)
    ]
    order = match(*ends)
    found[down], found[up] = right[down][order], right[up][:, order]
    if bias in right:
        found[bias] = right[bias][order]


def match(left: Tensor, right: Tensor) -> Tensor:
    """The order of the rows of `right` (n, d) in which they are nearest to those of `left`: sum of squared distances least.

    Returns:
        (n,) int64: row i of `left` goes with row order[i] of `right`.
    """
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(left.double(), right.double()).square()
    _, order = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(order, device=left.device)


Factors = tuple[Tensor, Tensor]


def align_factors(left: Factors, right: Factors) -> Factors:
    """(M A, B M^-1) for the factors A (r, in), B (out, r) of `right`, with M such that it is near to `left`.

    Tried are the identity, the best rotation (Procrustes on A and B together), and the best invertible maps for A alone and for B
    alone, which undo any change of factors exactly; the nearest of them is taken.
    """
    a1, b1, a2, b2 = (tensor.double() for tensor in (*left, *right))
    identity = torch.eye(len(a2), dtype=torch.float64, device=a2.device)
    candidates = [identity, _rotation(a1 @ a2.T + b1.T @ b2), _solve(a2.T, a1.T).T]
    backwards = _solve(b2, b1)  # b2 M^-1 = b1
    if torch.linalg.cond(backwards) < 1e8:
        candidates.append(torch.linalg.inv(backwards))
    best, least = (right[0], right[1]), float("inf")
    for m in candidates:
        if not torch.isfinite(m).all() or torch.linalg.cond(m) > 1e8:
            continue
        a, b = m @ a2, b2 @ torch.linalg.inv(m)
        gap = float((a - a1).square().sum() + (b - b1).square().sum())
        if gap < least:
            best, least = (a.to(right[0].dtype), b.to(right[1].dtype)), gap
    return best


def _rotation(product: Tensor) -> Tensor:
    """The orthogonal matrix nearest to `product` (r, r)."""
    u, _, v = torch.linalg.svd(product)
    nearest: Tensor = u @ v
    return nearest


def _solve(known: Tensor, wanted: Tensor) -> Tensor:
    """The matrix X with the least |known X - wanted|; minimum norm where `known` has not full rank."""
    found: Tensor = torch.linalg.pinv(known) @ wanted
    return found


def product_ends(left: Weights, right: Weights, config: LoRA) -> tuple[LoRA, dict[str, Tensor], dict[str, Tensor]]:
    """Two ends of twice the rank between which the straight line interpolates the update B A, not its factors.

    With A = [A_1; A_2] at both ends and B = [B_1, 0] at the left, [0, B_2] at the right, the point x has the update
    (1 - x) B_1 A_1 + x B_2 A_2.

    Returns:
        The settings of the wider LoRA, and both ends.

    Raises:
        DeltatuneError: no LoRA.
    """
    if not any(name.endswith(FACTOR_A) for name in left):
        raise DeltatuneError("--product: the update B A is that of LoRA, and there is none here; leave it out")
    check_match(left, right)
    ends: list[dict[str, Tensor]] = [{}, {}]
    for name in left:
        one, other = left[name], right[name]
        if name.endswith(FACTOR_A):
            both = torch.cat([one, other])
            ends[0][name], ends[1][name] = both, both.clone()
        elif name.endswith(FACTOR_B):
            nothing = torch.zeros_like(one)
            ends[0][name], ends[1][name] = torch.cat([one, nothing], dim=1), torch.cat([nothing, other], dim=1)
        else:
            ends[0][name], ends[1][name] = one, other
    wide = LoRA(2 * config.rank, 2 * config.alpha, config.init, config.targets, config.dropout)
    return wide, ends[0], ends[1]
