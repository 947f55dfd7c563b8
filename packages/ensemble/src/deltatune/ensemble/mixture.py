"""Mixtures of sources tried on a target: their loss, the choice of the temperature, and weights that are learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from deltatune.core.data import Example
from deltatune.core.delta import forward_with
from deltatune.core.formats import PromptFormat
from deltatune.core.weights import combine
from deltatune.ensemble.bench import Prepared
from deltatune.ensemble.gradients import example_losses
from deltatune.ensemble.scoring import Target
from deltatune.ensemble.weighting import Softening, soften

_AT_ONCE = 16


def mixture(prepared: Prepared, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The weighted sum of the sources' deltas with a head for the target.

    The head is fitted to the mixture, or is the weighted sum of the sources' own where these know the target's labels.
    """
    delta = mixed(prepared, weights)
    if prepared.head != "source":
        return prepared.target.with_head(delta)
    used = {name: weight for name, weight in weights.items() if weight}
    parts = [prepared.sources[name] for name in used]
    head = combine([{key: part.saved.weights[key] for key in part.saved.head} for part in parts], list(used.values()))
    return prepared.target.with_head(delta, head)


def mixed(prepared: Prepared, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The weighted sum of the sources' deltas alone."""
    used = {name: weight for name, weight in weights.items() if weight}
    return combine([prepared.sources[name].delta for name in used], list(used.values()))


def losses(target: Target, weights: Mapping[str, Tensor], examples: Sequence[Example]) -> list[float]:
    """The loss of each example, in order."""
    features, found = target.form.features(examples), []
    target.put(weights)
    target.tuned.eval()
    with torch.no_grad():
        for first in range(0, len(features), _AT_ONCE):
            batch = target.form.collate(features[first : first + _AT_ONCE])
            batch = {name: tensor.to(target.tuned.backbone.device) for name, tensor in batch.items()}
            found += example_losses(target.logits(batch), batch["labels"]).tolist()
    return found


def choose(
    prepared: Prepared,
    scores: Mapping[str, float],
    sign: int,
    how: Softening,
    temperatures: Sequence[float],
    loss: Callable[[Mapping[str, float]], float] | None = None,
) -> tuple[float, dict[float, float]]:
    """The temperature whose mixture has the lowest loss, and the mean loss of each; the first of equal ones.

    Args:
        prepared: the target with its sources.
        scores: of the sources.
        sign: of the measure.
        how: scores become weights.
        temperatures: to choose from.
        loss: of the mixture with these weights; by default the mean on dev.
    """

    def on_dev(weights: Mapping[str, float]) -> float:
        each = losses(prepared.target, mixture(prepared, weights), prepared.target.task.dev)
        return sum(each) / len(each)

    found = {
        temperature: (loss or on_dev)(soften(scores, sign, replace(how, temperature=temperature))) for temperature in temperatures
    }
    return min(found, key=lambda temperature: found[temperature]), found


def learn(
    prepared: Prepared, names: Sequence[str], examples: Sequence[Example], steps: int = 60, lr: float = 0.1
) -> dict[str, float]:
    """Weights that minimise the loss of the mixture on `examples` by gradient: w = softmax(a), Adam on a from equal weights.

    The head, where there is one, is that of the uniform mixture throughout.

    Args:
        prepared: the target.
        names: of the sources to mix.
        examples: labelled.
        steps: updates, each over all examples.
        lr: of Adam.
    """
    target = prepared.target
    device = target.tuned.backbone.device
    even = mixture(prepared, dict.fromkeys(names, 1 / len(names)))
    head = {name: even[name].to(device) for name in target.tuned.head_names}
    stacked = {
        name: torch.stack([prepared.sources[source].delta[name] for source in names]).to(device)
        for name in even
        if name not in head
    }
    target.tuned.eval()
    target.put(even)
    features = target.form.features(examples)
    raw = torch.zeros(len(names), device=device, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        for first in range(0, len(features), _AT_ONCE):
            batch = target.form.collate(features[first : first + _AT_ONCE])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            shares = torch.softmax(raw, 0)
            mixed = {name: torch.tensordot(shares, tensor, 1) for name, tensor in stacked.items()}
            logits = forward_with(target.tuned, {**mixed, **head})(batch)
            if isinstance(target.form, PromptFormat):
                logits = logits[:, target.form.words.to(device)]
            loss = example_losses(logits, batch["labels"]).sum() / len(features)
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return dict(zip(names, torch.softmax(raw.detach(), 0).tolist(), strict=True))
