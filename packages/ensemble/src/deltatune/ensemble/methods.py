"""What tuning of sources and of targets does otherwise than ordinary tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deltatune.core.data import Task
from deltatune.core.delta import Head, Tuned
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.formats import Format
from deltatune.core.method import Method


@dataclass
class CommonStart(Method):
    """Deltas of all tasks begin with equal values, whatever heads their tasks have.

    A head draws its values first, so with one seed the deltas of tasks with other numbers of classes would begin elsewhere, and
    averages of them would mean little.

    Args:
        seed: of the initial values.
    """

    seed: int = 0

    def settings(self) -> Mapping[str, Any]:
        """See `Method`."""
        return {"common_start": self.seed}

    def begin(self, tuned: Tuned, form: Format, task: Task) -> Mapping[str, Scores]:
        """Draw the deltas again, one after another, without the head."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for delta in tuned.kinds():
                if not isinstance(delta.config, Head):
                    fresh = dict(delta.config.build(tuned.backbone, generator).named_parameters())
                    for name, parameter in delta.named_parameters():
                        parameter.copy_(fresh[name])
        return {}


@dataclass
class ScoredStart(Method):
    """Tuning from a source whose scores before the first update are reported: the zero-shot scores."""

    def settings(self) -> Mapping[str, Any]:
        """See `Method`."""
        return {"scores_before": True}

    def begin(self, tuned: Tuned, form: Format, task: Task) -> Mapping[str, Scores]:
        """Score dev and test."""
        return {split: evaluate(tuned, form, part) for split, part in (("dev", task.dev), ("test", task.test)) if part}
