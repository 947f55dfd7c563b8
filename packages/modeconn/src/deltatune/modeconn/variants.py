"""Modules that lie beside the published programs, without a script that uses them, as functions of their tensors.

Adapters and LoRA whose matrices are z^T H, with one trained vector z for all of them and fixed random H; a LoRA that is a bias.
"""

from __future__ import annotations

import torch
from torch import Tensor


def low_dimensional(z: Tensor, basis: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix z^T H of `shape`, row-major.

    Args:
        z: (k, 1), shared by all matrices.
        basis: H, (k, shape[0] * shape[1]), fixed.
        shape: (in, r) of A or (r, out) of B.
    """
    return (z.T @ basis).reshape(shape)


def low_dimensional_adapter(x: Tensor, z: Tensor, bases: tuple[Tensor, Tensor]) -> Tensor:
    """The output x + silu(x A) B, (..., d), with A and B from `low_dimensional`."""
    width = x.shape[-1]
    down = low_dimensional(z, bases[0], (width, bases[0].shape[1] // width))
    up = low_dimensional(z, bases[1], (down.shape[1], width))
    return x + torch.nn.functional.silu(x @ down) @ up


def low_dimensional_lora(x: Tensor, weight: Tensor, z: Tensor, bases: tuple[Tensor, Tensor], alpha: float) -> Tensor:
    """The output x W^T + (x A) B alpha / r, (..., out), with A and B from `low_dimensional`; `weight` W is (out, in)."""
    rank = bases[0].shape[1] // weight.shape[1]
    down = low_dimensional(z, bases[0], (weight.shape[1], rank))
    up = low_dimensional(z, bases[1], (rank, weight.shape[0]))
    return x @ weight.T + x @ down @ up * (alpha / rank)


def low_rank_bias(x: Tensor, weight: Tensor, right: Tensor, left: Tensor, alpha: float) -> Tensor:
    """The output x W^T + R^T B^T alpha / r, (..., out): LoRA as one bias for all positions.

    Args:
        x: (..., in).
        weight: W, (out, in).
        right: R, (r, 1).
        left: B, (out, r).
        alpha: the scale times the rank r.
    """
    return x @ weight.T + right.T @ left.T * (alpha / len(right))


def resplit(n_train: int, n_val: int, seed: int, small: bool) -> tuple[list[int], list[int], list[int] | None]:
    """How the classifier programs would have held out a test part, had they called their own helper.

    Args:
        n_train: training examples.
        n_val: validation examples, of which those of small tasks are shared out.
        seed: of the permutation.
        small: halve the permuted validation examples; otherwise the first 1000 permuted training examples are for validation.

    Returns:
        Rows of training; rows of validation (of the validation examples if `small`, else of the training examples); rows of the
        validation examples that are the test part, None where test stays as it is.
    """
    order = torch.randperm(n_val if small else n_train, generator=torch.Generator().manual_seed(seed)).tolist()
    if small:
        return list(range(n_train)), order[: n_val // 2], order[n_val // 2 :]
    return order[1000:], order[:1000], None
