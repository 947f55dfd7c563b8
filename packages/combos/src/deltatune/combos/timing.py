"""How long forward and backward passes take with each delta."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.core.delta import Tuned


@dataclass(frozen=True)
class StepTime:
    """Medians in milliseconds.

    Args:
        forward: the forward pass of a training step.
        backward: its backward pass.
        inference: a forward pass without gradients.
    """

    forward: float
    backward: float
    inference: float


def step_time(tuned: Tuned, batch: dict[str, Tensor], repetitions: int = 30, warm_up: int = 3) -> StepTime:
    """Time steps on one batch; the device is waited for before and after each part, the first `warm_up` steps do not count."""
    wait = _wait(tuned.backbone.device)
    parameters = list(tuned.parameters_by_name().values())
    times: dict[str, list[float]] = {"forward": [], "backward": [], "inference": []}
    for number in range(warm_up + repetitions):
        for parameter in parameters:
            parameter.grad = None
        value, forward = _timed(lambda: tuned(batch).logsumexp(dim=-1).mean(), wait)
        _, backward = _timed(value.backward, wait)
        with torch.inference_mode():
            _, inference = _timed(lambda: tuned(batch), wait)
        if number >= warm_up:
            for name, taken in (("forward", forward), ("backward", backward), ("inference", inference)):
                times[name].append(1000 * taken)
    return StepTime(**{name: statistics.median(taken) for name, taken in times.items()})


def _wait(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def _timed(function: Callable[[], Tensor], wait: Callable[[], None]) -> tuple[Tensor, float]:
    wait()
    began = time.perf_counter()
    value = function()
    wait()
    return value, time.perf_counter() - began
