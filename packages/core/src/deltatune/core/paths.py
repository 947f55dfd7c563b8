"""Paths between tuned models: which weights a point has, and what is measured along the way.

A point is a weighted sum of ends, tensor by tensor. One model in memory takes the values of each point in turn, so a path costs
the model and its ends, however many points it has; a copy of what the model held where it gets that back. A model whose own
parameters are tuned (`Full`) is one copy as well once `settle` has made its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import Weights, check_match

Coefficients = Callable[[float], Sequence[float]]


@dataclass(frozen=True)
class End:
    """One end of a path, on the CPU.

    Args:
        deltas: what the trainable tensors hold, by public name. Where they take the place of the base's (`Full`, `Modules`, a
            head) that is the value itself, not the difference, so the base is passed through as well.
        base: the base's own parameters where they change along the path; None leaves the model's as they are.
    """

    deltas: Weights
    base: Weights | None = None


def end_of(tuned: Tuned, with_base: bool = False) -> End:
    """The end at which `tuned` is now, as copies.

    Args:
        tuned: a model with deltas.
        with_base: take the base's parameters along, other than those that the deltas replace.
    """
    deltas = {name: tensor.detach().float().cpu().clone() for name, tensor in tuned.parameters_by_name().items()}
    base = {name: tensor.detach().float().cpu().clone() for name, tensor in _base(tuned).items()} if with_base else None
    return End(deltas, base)


def settle(tuned: Tuned, deltas: Iterable[dict[str, Tensor]], with_base: bool = False) -> list[End]:
    """The ends that `tuned` would be at with each of `deltas` loaded, in one copy each; `tuned` becomes one copy itself.

    The memory of base parameters that a delta replaces is given back, so `tuned` can be put on a path and called, and its values
    be read; they are no differences any more: `Tuned.weights`, `Tuned.load` and the backbone alone are of no use then.

    Args:
        tuned: a model with deltas right after `attach`, nothing loaded.
        deltas: as `Tuned.weights` gives them, one after another; each is emptied while its end is made.
        with_base: give the ends the base's parameters, as `end_of` does.

    Raises:
        DeltatuneError: other names or shapes than the attached deltas have.
    """
    replaced = {name: value for delta in tuned.kinds() for name, value in delta.replaced().items()}
    relative = {name for delta in tuned.kinds() if delta.relative for name in delta.replaced()}
    own = tuned.parameters_by_name()
    for name, value in replaced.items():
        # Equal where differences to it are taken: nothing is loaded yet.
        tuned.model.get_parameter(name).data = value.data
    base = {name: tensor.detach().float().cpu().clone() for name, tensor in _base(tuned).items()} if with_base else None
    ends = []
    for weights in deltas:
        check_match(own, weights, "the attached deltas and the weights of an end")
        ends.append(End({name: _value(weights.pop(name), own[name] if name in relative else None) for name in own}, base))
    for name, value in replaced.items():
        tuned.model.get_parameter(name).data = value.data.new_empty(0)
    return ends


def _value(delta: Tensor, base: Tensor | None) -> Tensor:
    delta = delta.detach().float().cpu()
    return delta if base is None else base.detach().float().cpu() + delta


def _base(tuned: Tuned) -> dict[str, nn.Parameter]:
    """Floating parameters of the base that no delta replaces."""
    replaced = {name for delta in tuned.kinds() for name in delta.replaced()}
    own = tuned.model.named_parameters()
    return {name: parameter for name, parameter in own if parameter.is_floating_point() and name not in replaced}


def line(t: float) -> tuple[float, float]:
    """The straight line between two ends: (1 - t, t)."""
    return 1.0 - t, t


def grid(points: int) -> list[float]:
    """`points` places from 0 to 1, both included, at equal distances.

    Raises:
        DeltatuneError: fewer than two.
    """
    if points < 2:
        raise DeltatuneError(f"a path has at least its two ends, got {points} points")
    return [i / (points - 1) for i in range(points)]


def walk(
    tuned: Tuned,
    ends: Sequence[End],
    places: Sequence[float],
    measure: Callable[[], Mapping[str, Any]],
    coefficients: Coefficients = line,
    restore: bool = True,
) -> Iterator[dict[str, Any]]:
    """Measure at each place: {"x": place, **measure()}; `tuned` is what it was when the iterator ends or is closed.

    Args:
        tuned: a model with the deltas of the ends.
        ends: two or more, all with the base or none.
        places: parameters t of the path.
        measure: called with `tuned` at the point.
        coefficients: weight of each end at t; the straight line by default.
        restore: give `tuned` back what it held; else it stays at the last place, and no copy of it is made.

    Raises:
        DeltatuneError: the ends do not fit each other or the model.
    """
    targets = _targets(tuned, ends)
    with _kept(tuned, ends[0].base is not None) if restore else nullcontext():
        for place in places:
            weights = coefficients(place)
            with torch.no_grad():
                for parameter, tensors in targets:
                    _mix_into(parameter, tensors, weights)
            yield {"x": place, **measure()}


def _mix_into(parameter: Tensor, tensors: Sequence[Tensor], weights: Sequence[float]) -> None:
    """Write the weighted sum into `parameter`, without a tensor of its own: the largest may be half of the model."""
    parameter.copy_(tensors[0]).mul_(weights[0])
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        parameter.add_(tensor.to(parameter.device), alpha=weight)


def _targets(tuned: Tuned, ends: Sequence[End]) -> list[tuple[nn.Parameter, list[Tensor]]]:
    own = tuned.parameters_by_name()
    held = _base(tuned)
    for number, end in enumerate(ends, start=1):
        check_match(own, end.deltas, f"the model's deltas and end {number} of the path")
        if (end.base is None) != (ends[0].base is None):
            raise DeltatuneError(f"end {number} of the path and end 1: one has a base and the other has none")
        if end.base is not None:
            check_match(held, end.base, f"the model and the base of end {number}")
    found = [(parameter, [end.deltas[name] for end in ends]) for name, parameter in own.items()]
    bases = [end.base for end in ends if end.base is not None]
    return found + [(parameter, [base[name] for base in bases]) for name, parameter in held.items() if bases]


@contextmanager
def _kept(tuned: Tuned, with_base: bool) -> Iterator[None]:
    """Put the values back that the model has now."""
    touched = list(tuned.parameters_by_name().values()) + (list(_base(tuned).values()) if with_base else [])
    before = [parameter.detach().clone() for parameter in touched]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(touched, before, strict=True):
                parameter.copy_(value)


def barrier(places: Sequence[float], losses: Sequence[float]) -> float:
    """The highest rise above the chord: max over x of L(x) - ((1 - x) L(0) + x L(1)); at least 0, since the ends are on it.

    Of scores that are better when greater, `drop` is the same below the chord.
    """
    first, last = losses[0], losses[-1]
    return max(loss - ((1 - x) * first + x * last) for x, loss in zip(places, losses, strict=True))


def drop(places: Sequence[float], scores: Sequence[float]) -> float:
    """The deepest fall below the chord: max over x of ((1 - x) A(0) + x A(1)) - A(x)."""
    return barrier(places, [-score for score in scores])
