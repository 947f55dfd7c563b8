"""Scores on the examples that a head must be fitted to as well: each example by a head that was fitted to the others.

A head fitted to a few examples has next to no loss on them whatever the source is, and one fitted to half of them says little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deltatune.core.data import Example
from deltatune.core.evidence import deal
from deltatune.ensemble.bench import Prepared
from deltatune.ensemble.gradients import example_losses
from deltatune.ensemble.mixture import mixed
from deltatune.ensemble.modules import WHOLE
from deltatune.ensemble.scoring import score_sources
from deltatune.ensemble.token_scores import TokenScores

PARTS = 4


@dataclass(frozen=True)
class Crossing:
    """A target whose training examples are dealt into parts.

    Args:
        prepared: the target, with sources that have no head for it.
        parts: places of the examples.
    """

    prepared: Prepared
    parts: list[list[int]]

    @classmethod
    def of(cls, prepared: Prepared) -> Crossing:
        """Every label dealt out over the parts."""
        return cls(prepared, deal(prepared.target.task.train, PARTS))

    @property
    def labels(self) -> Tensor:
        """Of the training examples, (N,)."""
        return torch.tensor([feature["labels"] for feature in self.prepared.target.training])

    def scores(self, names: Sequence[str], wanted: Sequence[str]) -> dict[str, dict[str, float]]:
        """Measure -> source -> score, of measures that need examples or gradients."""
        found: dict[str, dict[str, float]] = {measure: {} for measure in wanted}
        mean = self.prepared.target.budget.reduction == "mean"
        for name in names:
            delta = self.prepared.sources[name].delta
            logits, heads = self.prepared.target.crossed(delta, self.parts)
            sums = TokenScores()
            sums.add(logits.cpu(), self.labels)
            for measure in wanted:
                found[measure][name] = self._gradient(delta, heads) if measure == "grand" else sums.score(measure, mean)
        return found

    def loss(self, weights: Mapping[str, float]) -> float:
        """The mean loss of the mixture with these weights."""
        logits, _ = self.prepared.target.crossed(mixed(self.prepared, weights), self.parts)
        return float(example_losses(logits.cpu(), self.labels).mean())

    def _gradient(self, delta: Mapping[str, Tensor], heads: Sequence[Mapping[str, Tensor]]) -> float:
        train, total = self.prepared.target.task.train, 0.0
        for part, head in zip(self.parts, heads, strict=True):
            there = with_examples(self.prepared, train, [train[place] for place in part])
            total += score_sources(there.target, {"": {**delta, **head}}, ["grand"])["grand"][""][WHOLE]
        return total


def with_examples(prepared: Prepared, train: Sequence[Example], dev: Sequence[Example]) -> Prepared:
    """The same target with other examples: heads are fitted to `train`, scores are those of `dev`."""
    task = replace(prepared.target.task, train=tuple(train), dev=tuple(dev))
    budget = replace(prepared.target.budget, split="dev")
    return replace(prepared, target=replace(prepared.target, task=task, budget=budget))
