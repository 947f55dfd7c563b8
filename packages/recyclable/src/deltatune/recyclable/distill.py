"""Distillation from an outdated model (section "distillation-based recycling" of the paper).

For a batch of B examples and C classes, student logits z, teacher logits t and temperature T:

    L_kd  = T^2 * 1/(B C) * sum p_t log(p_t / p_z),   p = softmax(. / T)
    L_pat = 1/2 * mean over examples, layers and units of (s - t)^2 at position 0
    L     = (1 - alpha) * L_task + alpha * L_kd + beta * L_pat

The division by B C is the published one: C times smaller than the usual Kullback-Leibler divergence, and the published alpha
and temperature were chosen with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from deltatune.core.errors import DeltatuneError

Reduction = Literal["element_mean", "batch_mean"]


@dataclass(frozen=True)
class Distillation:
    """How the losses are weighted.

    Args:
        alpha: weight of the distillation term; the task loss has 1 - alpha. Published: 0.9 and 0.7.
        beta: weight of the layer-wise ("patience") term; 0 leaves it out (published: -1). Published: 5, 10, 50, 100.
        temperature: both sides' logits are divided by it. Published: 5, 10, 20.
        reduction: divide by examples and classes (element_mean, published) or by examples (batch_mean, the usual divergence).
    """

    alpha: float = 0.9
    beta: float = 0.0
    temperature: float = 5.0
    reduction: Reduction = "element_mean"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.alpha <= 1:
            raise DeltatuneError(f"alpha must be from 0 to 1, got {self.alpha:g}; it weights the distillation term")
        if not self.beta >= 0:
            raise DeltatuneError(f"beta must not be negative, got {self.beta:g}; 0 leaves the layer-wise term out")
        if not self.temperature > 0:
            raise DeltatuneError(f"temperature must be above 0, got {self.temperature:g}")


def logit_loss(student: Tensor, teacher: Tensor, temperature: float, reduction: Reduction = "element_mean") -> Tensor:
    """L_kd of logits (B, C) each; no gradient into the teacher."""
    target = log_softmax(teacher.detach() / temperature, dim=-1)
    terms = target.exp() * (target - log_softmax(student / temperature, dim=-1))
    return temperature**2 * (terms.mean() if reduction == "element_mean" else terms.sum(dim=-1).mean())


def first_positions(states: Sequence[Tensor]) -> Tensor:
    """What the layer-wise loss compares: position 0 of every state (B, T, d) but the last layer's, as (B, L, d)."""
    return torch.stack([state[:, 0] for state in states[:-1]], dim=1)


def patience_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_pat of `first_positions` (B, L, d) each, in float32; no gradient into the teacher.

    Raises:
        DeltatuneError: other numbers of layers or widths.
    """
    if student.shape != teacher.shape:
        raise DeltatuneError(
            f"the layer-wise loss compares states of one size, and student and teacher have {tuple(student.shape[1:])} and "
            f"{tuple(teacher.shape[1:])} layers and units; set beta 0, or take a teacher of the student's size"
        )
    return 0.5 * (student.float() - teacher.detach().float()).square().mean()


@dataclass(frozen=True)
class Side:
    """What one side says about a batch: logits (B, C), and `first_positions` where the layer-wise term is used."""

    logits: Tensor
    states: Tensor | None = None


def total_loss(task_loss: Tensor, student: Side, teacher: Side, config: Distillation) -> Tensor:
    """L of the module's documentation, ()."""
    loss = (1 - config.alpha) * task_loss
    loss = loss + config.alpha * logit_loss(student.logits, teacher.logits, config.temperature, config.reduction)
    if config.beta and student.states is not None and teacher.states is not None:
        loss = loss + config.beta * patience_loss(student.states, teacher.states)
    return loss
