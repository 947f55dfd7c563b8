"""A task head for a source on a task that it was not tuned on: fitted to the target's training examples, the source frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Feature, Format

HeadOf = Literal["auto", "source", "probe"]
_AT_ONCE = 32
_DECAY = 1e-2
_ITERATIONS = 60


@dataclass(frozen=True)
class States:
    """What enters the head of N examples: `values` (N, ...) float32, and their `labels` (N,)."""

    values: Tensor
    labels: Tensor

    def at(self, places: Sequence[int]) -> States:
        """Those of some examples."""
        return States(self.values[list(places)], self.labels[list(places)])


def probe(tuned: Tuned, form: Format, features: Sequence[Feature], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of the task head, fitted to the training examples with the delta that is in `tuned`: `fit` of their `states`.

    Raises:
        DeltatuneError: as `fit`.
    """
    return fit(tuned, form, states(tuned, form, features, start), start)


def crossed(
    tuned: Tuned, form: Format, features: Sequence[Feature], start: Mapping[str, Tensor], parts: Sequence[Sequence[int]]
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The logits (N, C) of each example by a head that was fitted to the other parts, and the head of each part.

    Args:
        tuned: holds the source; its head is ignored.
        form: of the target.
        features: of N labelled examples.
        start: values of all head tensors.
        parts: places of the examples; each in one part.

    Raises:
        DeltatuneError: as `fit`.
    """
    every, heads, rows = states(tuned, form, features, start), [], dict[int, Tensor]()
    for part in parts:
        inside = set(part)
        heads.append(fit(tuned, form, every.at([place for place in range(len(features)) if place not in inside]), start))
        with torch.no_grad():
            rows.update(zip(part, _logits(tuned, heads[-1], every.at(part).values), strict=True))
    return torch.stack([rows[place] for place in range(len(features))]), heads


def fit(tuned: Tuned, form: Format, given: States, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of the task head, fitted by L-BFGS to states.

    The objective is that of the task plus 0.01 |W|^2 / 2 over the head's matrices; all sources begin with `start`, so that they
    differ by their deltas alone.

    Args:
        tuned: whose head it is.
        form: of the target.
        given: of the examples.
        start: values of all head tensors.

    Returns:
        Values of all head tensors; those outside the classifier itself, such as a pooler, are those of `start`.

    Raises:
        DeltatuneError: the head is not one module with a row of scores for each example.
    """
    path = tuned.backbone.sites.head[0]
    values = {
        name: start[name].to(tuned.backbone.device).clone().requires_grad_() for name in start if name.startswith(f"{path}.")
    }
    optimizer = torch.optim.LBFGS(list(values.values()), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        logits = _logits(tuned, values, given.values)
        if logits.dim() != 2:
            raise DeltatuneError(
                f"the head {path} of {tuned.backbone.name} cannot be fitted alone; take sources with the target's labels"
            )
        decay = torch.stack([value.square().sum() for value in values.values() if value.dim() > 1]).sum()
        loss = form.loss(logits.float(), {"labels": given.labels}) + _DECAY / 2 * decay
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    return {**start, **{name: value.detach().cpu() for name, value in values.items()}}


def _logits(tuned: Tuned, head: Mapping[str, Tensor], values: Tensor) -> Tensor:
    path = tuned.backbone.sites.head[0]
    own = {name.removeprefix(f"{path}."): value.to(values.device) for name, value in head.items() if name.startswith(f"{path}.")}
    logits: Tensor = functional_call(tuned.model.get_submodule(path), own, (values,))
    return logits


def states(tuned: Tuned, form: Format, features: Sequence[Feature], start: Mapping[str, Tensor]) -> States:
    """What enters the head (the first position alone where it is handed all of them), with the delta that is in `tuned`.

    Args:
        tuned: holds the source; its head is ignored.
        form: of the target.
        features: of labelled examples.
        start: values of all head tensors.
    """
    values: list[Tensor] = []
    labels = []
    tuned.load({**tuned.weights(), **start})
    handle = tuned.model.get_submodule(tuned.backbone.sites.head[0]).register_forward_pre_hook(partial(_keep, values))
    try:
        with torch.no_grad():
            for first in range(0, len(features), _AT_ONCE):
                batch = form.collate(features[first : first + _AT_ONCE])
                batch = {name: tensor.to(tuned.backbone.device) for name, tensor in batch.items()}
                labels.append(batch["labels"])
                tuned(batch)
    finally:
        handle.remove()
    return States(torch.cat(values), torch.cat(labels))


def _keep(states: list[Tensor], module: nn.Module, args: tuple[Any, ...]) -> None:
    # A base in bf16 hands over bf16; the head is fitted in its own type.
    states.append((args[0].detach() if args[0].dim() < 3 else args[0].detach()[:, :1]).float())


def settle(
    head: HeadOf, labels: Sequence[tuple[str, ...] | None], target: tuple[str, ...], has_head: bool
) -> Literal["none", "source", "probe"]:
    """Whose head answers for the target: that of each source where all know its labels, else one fitted for each.

    Args:
        head: as asked.
        labels: of the sources.
        target: labels of the target.
        has_head: whether the form has a head at all.

    Raises:
        DeltatuneError: `source`, and a source has other labels.
    """
    if not has_head:
        return "none"
    alike = all(known == target for known in labels)
    if head == "source" and not alike:
        known = next(known for known in labels if known != target)
        raise DeltatuneError(
            f"--head source: a source knows the labels {', '.join(known or ('(unrecorded)',))}, and the target has "
            f"{', '.join(target)}; give --head probe"
        )
    return "source" if head == "source" or (head == "auto" and alike) else "probe"
