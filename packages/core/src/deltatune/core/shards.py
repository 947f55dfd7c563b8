"""Matrices of which each process of a launch holds a part alone, and what the processes compute of them together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate.utils import reduce
from torch import Tensor, distributed

from deltatune.core.errors import SharedError


@dataclass(frozen=True)
class Shard:
    """This process's part of a matrix.

    Args:
        dim: which dimension is divided, 0 or 1.
        length: of the whole matrix along it.
    """

    dim: int
    length: int


class Divided(dict[str, Tensor]):
    """Tensors to train, by name, where those named in `shards` are this process's parts of greater ones.

    The gradient of a part is that of the sum of all processes' losses: the loss itself talks to the other processes.

    Args:
        tensors: as for `fit`.
        shards: name -> what its tensor is a part of.
    """

    def __init__(self, tensors: Mapping[str, Tensor], shards: Mapping[str, Shard]) -> None:
        super().__init__(tensors)
        self.shards = dict(shards)


def shards_of(params: Mapping[str, Tensor]) -> dict[str, Shard]:
    """Which of `params` are parts; none, unless they are `Divided`."""
    return params.shards if isinstance(params, Divided) else {}


@contextmanager
def connected() -> Iterator[None]:
    """What processes do together inside fails with one line once another has ended.

    Raises:
        SharedError: in place of the RuntimeError of the connection.
    """
    try:
        yield
    except RuntimeError as error:
        raise SharedError("another process of this launch has ended; see what it says") from error


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place and as the result.

    Raises:
        SharedError: another process has ended.
    """
    with connected():
        distributed.all_reduce(tensor)
    return tensor


def greatest(number: int, device: torch.device) -> int:
    """The greatest of all processes' numbers; `device` is where they compute.

    Raises:
        SharedError: another process has ended.
    """
    found = torch.tensor(number, device=device)
    with connected():
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return int(found.item())


def reduce_gradients(params: Mapping[str, Tensor], value: Tensor) -> Tensor:
    """Sum the gradients of what every process holds, in place, and the loss `value`, which is returned.

    Raises:
        SharedError: another process has ended.
    """
    shared = [parameter for name, parameter in params.items() if name not in shards_of(params)]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in shared]
    with connected():
        *sums, total = reduce([*gradients, value], reduction="sum")
    for parameter, gradient in zip(shared, sums, strict=True):
        parameter.grad = gradient
    return torch.as_tensor(total)


def joint_norm(params: Mapping[str, Tensor]) -> Tensor:
    """The L2 norm of all gradients together, (): of parts, those of all processes."""
    shards = shards_of(params)
    whole = [p.grad for name, p in params.items() if p.grad is not None and name not in shards]
    parts = [p.grad for name, p in params.items() if p.grad is not None and name in shards]
    norm: Tensor = torch.nn.utils.get_total_norm(whole)
    if not parts:
        return norm
    return (summed(torch.nn.utils.get_total_norm(parts).square()) + norm.square()).sqrt()


def mean(tensor: Tensor, dim: int, shard: Shard | None) -> Tensor:
    """The mean along `dim`, which of a part (`shard`) is the divided one: that of the whole."""
    return tensor.mean(dim=dim) if shard is None else summed(tensor.sum(dim=dim)) / shard.length


def rms(tensor: Tensor, shard: Shard | None = None) -> Tensor:
    """The root mean square, (): of a part, that of the whole."""
    norm: Tensor = torch.linalg.vector_norm(tensor)
    if shard is None:
        return norm / math.sqrt(max(1, tensor.numel()))
    return (summed(norm.square()) / (tensor.numel() // tensor.shape[shard.dim] * shard.length)).sqrt()
