"""A task head for a source on a task that it was not tuned on: fitted to the target's training examples, the source frozen."""

from __future__ import annotations

from collections.abc import Sequence
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


def probe(tuned: Tuned, form: Format, features: Sequence[Feature], start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values of the task head, fitted by L-BFGS to the training examples, with the delta that is in `tuned`.

    The objective is that of the task plus 0.01 |W|^2 / 2 over the head's matrices; all sources begin with `start`, so that they
    differ by their deltas alone. The states before the head are computed once.

    Args:
        tuned: holds the source; its head is ignored.
        form: of the target.
        features: its training examples.
        start: values of all head tensors.

    Returns:
        Values of all head tensors; those outside the classifier itself, such as a pooler, are those of `start`.

    Raises:
        DeltatuneError: the head is not one module with a row of scores for each example.
    """
    path = tuned.backbone.sites.head[0]
    module = tuned.model.get_submodule(path)
    inside = {name: name.removeprefix(f"{path}.") for name in start if name.startswith(f"{path}.")}
    states, batches = _states(tuned, form, features, module, start)
    values = {name: start[name].to(tuned.backbone.device).clone().requires_grad_() for name in inside}
    optimizer = torch.optim.LBFGS(list(values.values()), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        parameters = {inside[name]: value for name, value in values.items()}
        logits = [functional_call(module, parameters, (state,)) for state in states]
        if any(rows.dim() != 2 for rows in logits):
            raise DeltatuneError(
                f"the head {path} of {tuned.backbone.name} cannot be fitted alone; take sources with the target's labels"
            )
        losses = [form.loss(rows.float(), batch) * len(rows) for rows, batch in zip(logits, batches, strict=True)]
        decay = torch.stack([value.square().sum() for value in values.values() if value.dim() > 1]).sum()
        loss = torch.stack(losses).sum() / len(features) + _DECAY / 2 * decay
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    return {**start, **{name: value.detach().cpu() for name, value in values.items()}}


def _states(
    tuned: Tuned, form: Format, features: Sequence[Feature], module: nn.Module, start: dict[str, Tensor]
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """What enters the head for each batch (the first position alone where it is handed all of them), and the batches."""
    states: list[Tensor] = []
    batches = []
    tuned.load({**tuned.weights(), **start})
    handle = module.register_forward_pre_hook(partial(_keep, states))
    try:
        with torch.no_grad():
            for first in range(0, len(features), _AT_ONCE):
                batch = form.collate(features[first : first + _AT_ONCE])
                batches.append({name: tensor.to(tuned.backbone.device) for name, tensor in batch.items()})
                tuned(batches[-1])
    finally:
        handle.remove()
    return states, batches


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
