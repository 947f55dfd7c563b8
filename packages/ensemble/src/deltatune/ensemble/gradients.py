"""GraNd: how long the gradient of the delta is, over all its tensors, by block or by sub-layer.

One batch at a time as published, or for each example by itself: the gradient of one example with respect to a linear map is the
sum over positions of (gradient of the output) (input)^T, so all examples of a batch share one forward and one backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deltatune.core.batches import Batch
from deltatune.core.delta import Tuned
from deltatune.core.delta.base import Linear

IGNORED = -100
Group = Callable[[str], str]


def batch_norms(tuned: Tuned, loss: Tensor, group: Group) -> dict[str, float]:
    """The length of the gradient of `loss`, a scalar, in each group of tensors of the delta; the task head does not count."""
    parts = delta_tensors(tuned)
    gradients = torch.autograd.grad(loss, list(parts.values()), allow_unused=True)
    squares: dict[str, float] = {}
    for name, gradient in zip(parts, gradients, strict=True):
        key = group(name)
        squares[key] = squares.get(key, 0.0) + (0.0 if gradient is None else float(gradient.double().square().sum()))
    return {key: math.sqrt(value) for key, value in squares.items()}


def delta_tensors(tuned: Tuned) -> dict[str, nn.Parameter]:
    """The trainable tensors without the task head."""
    head = set(tuned.head_names)
    return {name: parameter for name, parameter in tuned.parameters_by_name().items() if name not in head}


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each example, (B,): the mean over its answer tokens; logits (B, L, C) or (B, C)."""
    if labels.dim() == 1:
        return cross_entropy(logits, labels, reduction="none")
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none").view_as(labels)
    return each.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def example_norms(
    tuned: Tuned, batch: Batch, labels: Tensor, logits_of: Callable[[Batch], Tensor], group: Group
) -> dict[str, Tensor]:
    """The length of each example's own gradient in each group, (B,), float64.

    One forward and one backward pass where the delta consists of linear maps (LoRA, adapters); else one for every example.

    Args:
        tuned: in the mode to measure in; evaluation, as a rule.
        batch: tensors with one row for each example.
        labels: (B,) or (B, L).
        logits_of: the forward pass, (B, C) or (B, L, C).
        group: maps a tensor's name to its group.
    """
    parts = delta_tensors(tuned)
    linear = _linear_parts(tuned)
    if {id(parameter) for parameter in parts.values()} != {id(p) for module, _ in linear for p in module.parameters()}:
        return _one_by_one(tuned, batch, labels, logits_of, group)
    names = {id(parameter): name for name, parameter in parts.items()}
    with _recorded([module for module, _ in linear]) as seen:
        losses = example_losses(logits_of(batch), labels)
        outputs = [output for _, output in seen.values()]
        gradients = torch.autograd.grad(losses.sum(), outputs)
    squares: dict[str, Tensor] = {}
    for (module, (given, _)), gradient in zip(seen.items(), gradients, strict=True):
        a, g = (x.detach().double().reshape(len(labels), -1, x.shape[-1]) for x in (given, gradient))
        found = {names[id(module.weight)]: torch.einsum("bti,bto->boi", a, g).square().sum((1, 2))}
        if module.bias is not None:
            found[names[id(module.bias)]] = g.sum(1).square().sum(1)
        for name, square in found.items():
            key = group(name)
            squares[key] = squares[key] + square if key in squares else square
    return {key: square.sqrt() for key, square in squares.items()}


def _linear_parts(tuned: Tuned) -> list[tuple[Linear, str]]:
    return [(module, name) for delta in tuned.kinds() for name, module in delta.named_modules() if isinstance(module, Linear)]


@contextmanager
def _recorded(modules: list[Linear]) -> Iterator[dict[Linear, tuple[Tensor, Tensor]]]:
    """Input and output of each module in the forward pass under way."""
    seen: dict[Linear, tuple[Tensor, Tensor]] = {}
    handles = [module.register_forward_hook(partial(_record, seen)) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _record(seen: dict[Any, tuple[Tensor, Tensor]], module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    seen[module] = (args[0], output)


def _one_by_one(
    tuned: Tuned, batch: Batch, labels: Tensor, logits_of: Callable[[Batch], Tensor], group: Group
) -> dict[str, Tensor]:
    found: dict[str, list[float]] = {}
    for row in range(len(labels)):
        one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        loss = example_losses(logits_of(one), labels[row : row + 1]).sum()
        for key, value in batch_norms(tuned, loss, group).items():
            found.setdefault(key, []).append(value)
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in found.items()}
