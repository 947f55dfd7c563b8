"""Scores of sources on a target: all measures that need examples in one pass, the frozen base shared by all sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from deltatune.core.batches import Batch
from deltatune.core.data import Task
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Feature, Format, PromptFormat
from deltatune.ensemble.gradients import batch_norms, example_losses, example_norms
from deltatune.ensemble.heads import crossed, probe
from deltatune.ensemble.modules import WHOLE, By, block_states, grouping, state_cosines
from deltatune.ensemble.token_scores import TokenScores
from deltatune.ensemble.weight_scores import weight_cosine

ByModule = dict[str, float]
FROM_PREDICTIONS = ("loss", "el2n", "label_cosine", "kl")
WITH_REFERENCE = ("kl", "hidden_cosine", "weight_cosine")


@dataclass(frozen=True)
class Budget:
    """Which examples are looked at, and how their scores are added up.

    Args:
        split: of the target; dev as published, or train, which leaves dev for choices such as the temperature.
        max_examples: the first N of them for every measure (published: 50 for some, all for others); null for all.
        reduction: sum over answer tokens as published, or mean, so that one temperature suits answers of any length. The loss is
            always a mean.
        batch_size: examples in a forward pass; changes no score.
        grand_batch_size: examples whose mean loss one gradient is of; 1 is the gradient of each example.
        grand_max_examples: the first N examples for gradients.
        dropout: measure gradients in training mode, with noise that is the same for every source.
    """

    split: Literal["dev", "train"] = "dev"
    max_examples: int | None = None
    reduction: Literal["sum", "mean"] = "sum"
    batch_size: int = 16
    grand_batch_size: int = 5
    grand_max_examples: int | None = 50
    dropout: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("max_examples", "batch_size", "grand_batch_size", "grand_max_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DeltatuneError(f"budget.{name} must be at least 1, got {value}")

    def parts(self, measure: str) -> dict[str, object]:
        """The settings that `measure` depends on."""
        common: dict[str, object] = {"split": self.split}
        if measure == "weight_cosine":
            return {}
        if measure == "grand":
            names = ("grand_batch_size", "grand_max_examples", "dropout")
            return common | {name: getattr(self, name) for name in names}
        return common | {"max_examples": self.max_examples, "reduction": self.reduction}


@dataclass
class Target:
    """A target, and the model that its sources are loaded into one after another.

    Args:
        tuned: the shared base with a delta of the sources' kind.
        form: how the target is asked.
        task: its examples.
        budget: which of them are looked at.
        reference: values of a delta tuned on the target, head included; None without one.
        fit_heads: fit a head for each source on the target's training examples.
        start: values that every fitted head begins with; by default those in `tuned` now.
    """

    tuned: Tuned
    form: Format
    task: Task
    budget: Budget = field(default_factory=Budget)
    reference: Mapping[str, Tensor] | None = None
    fit_heads: bool = False
    start: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.start is None:
            own = self.tuned.weights()
            self.start = {name: own[name].cpu() for name in self.tuned.head_names}
        if self.task.regression is not None and self.tuned.backbone.form != "text":
            raise DeltatuneError(
                f"task {self.task.name} is a regression, whose values have no probabilities; give a text-to-text model"
            )
        if not getattr(self.task, self.budget.split):
            raise DeltatuneError(f"task {self.task.name} has no {self.budget.split} examples; choose another budget.split")

    @cached_property
    def features(self) -> list[Feature]:
        """The encoded examples of the split."""
        return list(self.form.features(getattr(self.task, self.budget.split)))

    @cached_property
    def training(self) -> list[Feature]:
        """The encoded examples that heads are fitted to."""
        return list(self.form.features(self.task.train))

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Load a source, or a mixture, with its head."""
        own = self.tuned.weights()
        self.tuned.load({name: weights.get(name, value) for name, value in own.items()})

    def with_head(self, delta: Mapping[str, Tensor], head: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """A delta with the head that answers for it: `head`, or one that is fitted now, or the start's where neither is asked."""
        start = dict(self.start or {})
        if not start:
            return dict(delta)
        if not self.fit_heads:
            return {**delta, **(head or start)}
        self.put({**delta, **start})
        return {**delta, **probe(self.tuned, self.form, self.training, start)}

    def crossed(self, delta: Mapping[str, Tensor], parts: Sequence[Sequence[int]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The logits (N, C) of the training examples, each by a head fitted to the other parts, and the head of each part."""
        start = dict(self.start or {})
        self.put({**delta, **start})
        return crossed(self.tuned, self.form, self.training, start, parts)

    def logits(self, batch: Batch) -> Tensor:
        """The scores of the answers: of the label words alone where the form is a prompt."""
        logits: Tensor = self.tuned(batch)
        return logits[:, self.form.words.to(logits.device)] if isinstance(self.form, PromptFormat) else logits

    def batches(self, count: int | None, size: int) -> Iterator[dict[str, Tensor]]:
        """The first `count` examples in batches of `size`, in their order."""
        features = self.features[:count]
        for first in range(0, len(features), size):
            batch = self.form.collate(features[first : first + size])
            yield {name: tensor.to(self.tuned.backbone.device) for name, tensor in batch.items()}


def score_sources(
    target: Target, sources: Mapping[str, Mapping[str, Tensor]], wanted: Sequence[str], by: By = "whole"
) -> dict[str, dict[str, ByModule]]:
    """The scores of the sources: measure -> source -> module -> score.

    Every batch is prepared once and passed through the shared model once for each source, whatever measures are wanted; the
    predictions of the reference are computed once for each batch and forgotten after it.

    Args:
        target: what they are scored on.
        sources: name -> values of the delta with its head.
        wanted: names of measures that need examples or a reference.
        by: whole: one score each; block, sublayer: one for each module, of `grand` and (blocks alone) `hidden_cosine`.

    Raises:
        DeltatuneError: a measure needs a reference and there is none, or has no scores by module.
    """
    for name in wanted:
        if name in WITH_REFERENCE and target.reference is None:
            raise DeltatuneError(
                f"measure {name} compares with a delta tuned on {target.task.name}; give a folder of them as --reference"
            )
        if (by, name) not in _POSSIBLE:
            raise DeltatuneError(f"measure {name} has no scores by {by}; grand has, and by block hidden_cosine")
    was_training = target.tuned.training
    target.tuned.eval()
    try:
        found = _from_predictions(target, sources, wanted, by)
        if "grand" in wanted:
            found["grand"] = {name: _gradients(target, weights, by) for name, weights in sources.items()}
        if "weight_cosine" in wanted and target.reference is not None:
            found["weight_cosine"] = {name: {WHOLE: _cosine(target, weights)} for name, weights in sources.items()}
    finally:
        target.tuned.train(was_training)
    return found


_POSSIBLE = {("whole", name) for name in (*FROM_PREDICTIONS, "grand", "hidden_cosine", "weight_cosine")} | {
    ("block", "grand"), ("block", "hidden_cosine"), ("sublayer", "grand"),
}  # fmt: skip


def _from_predictions(
    target: Target, sources: Mapping[str, Mapping[str, Tensor]], wanted: Sequence[str], by: By
) -> dict[str, dict[str, ByModule]]:
    names = [name for name in wanted if name in FROM_PREDICTIONS]
    hidden = "hidden_cosine" in wanted
    if not names and not hidden:
        return {}
    sums = {source: TokenScores() for source in sources}
    cosines: dict[str, ByModule] = {source: {} for source in sources}
    seen = 0
    with torch.no_grad(), block_states(target.tuned) as states:
        for batch in target.batches(target.budget.max_examples, target.budget.batch_size):
            seen += len(batch["labels"])
            reference, known = None, {}
            if ("kl" in names or hidden) and target.reference is not None:
                target.put(target.reference)
                reference = target.logits(batch)
                known = dict(states)
            for source, weights in sources.items():
                target.put(weights)
                sums[source].add(target.logits(batch), batch["labels"], reference if "kl" in names else None)
                for block, value in (state_cosines(known, states, batch) if hidden else {}).items():
                    cosines[source][block] = cosines[source].get(block, 0.0) + value
    mean = target.budget.reduction == "mean"
    found: dict[str, dict[str, ByModule]] = {
        name: {source: {WHOLE: sums[source].score(name, mean)} for source in sources} for name in names
    }
    if hidden:
        scale = 1 / seen if mean else 1.0
        blocks = {source: {block: value * scale for block, value in row.items()} for source, row in cosines.items()}
        whole = {source: {WHOLE: sum(row.values()) / len(row)} for source, row in blocks.items()}
        found["hidden_cosine"] = blocks if by == "block" else whole
    return found


def _gradients(target: Target, weights: Mapping[str, Tensor], by: By) -> ByModule:
    """Sum over batches of the length of the gradient of the mean loss, in each module."""
    budget, group = target.budget, grouping(target.tuned.backbone, by)
    target.put(weights)
    target.tuned.train(budget.dropout)
    total: ByModule = {}
    single = budget.grand_batch_size == 1 and not budget.dropout
    with torch.random.fork_rng(devices=[] if target.tuned.backbone.device.type == "cpu" else None):
        torch.manual_seed(0)  # the same noise for every source
        for batch in target.batches(budget.grand_max_examples, budget.batch_size if single else budget.grand_batch_size):
            if single:
                each = example_norms(target.tuned, batch, batch["labels"], target.logits, group)
                norms = {name: float(values.sum()) for name, values in each.items()}
            else:
                norms = batch_norms(target.tuned, _mean_loss(target, batch), group)
            for name, value in norms.items():
                total[name] = total.get(name, 0.0) + value
    target.tuned.eval()
    return total


def _mean_loss(target: Target, batch: Batch) -> Tensor:
    """As in training: the mean over all answer tokens of the batch."""
    losses, labels = example_losses(target.logits(batch), batch["labels"]), batch["labels"]
    tokens = (labels != -100).sum(1) if labels.dim() > 1 else torch.ones_like(labels)
    return (losses * tokens).sum() / tokens.sum()


def _cosine(target: Target, weights: Mapping[str, Tensor]) -> float:
    head = set(target.tuned.head_names)
    ends = [
        {name: end[name] for name in target.tuned.parameters_by_name() if name not in head}
        for end in (target.reference or {}, weights)
    ]
    return weight_cosine(*ends)
