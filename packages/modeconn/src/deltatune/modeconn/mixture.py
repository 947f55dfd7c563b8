"""Learned mixing of two tuned models as a method of `tune_to`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deltatune.core.batches import Batch
from deltatune.core.data import Task
from deltatune.core.delta import Tuned, forward_with
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores
from deltatune.core.formats import Format
from deltatune.core.method import Method
from deltatune.core.weights import Weights, check_match
from deltatune.modeconn.mixing import By, first_logits, grouping, mixed, numbered


@dataclass
class Mixture(Method):
    """Learn one weight for each group of tensors: sigma(w_g) left + (1 - sigma(w_g)) right.

    Args:
        left: the end that sigma(w) belongs to, as a delta.
        right: the other.
        ids: which ends these are, for the run's identity.
        by: how fine the groups are.
        std: standard deviation of the first w (published: 10).
        seed: of the first w.
    """

    left: Weights
    right: Weights
    ids: Sequence[Mapping[str, Any]]
    by: By = "block"
    std: float = 10.0
    seed: int = 0
    _logits: torch.nn.Parameter | None = field(default=None, repr=False)
    _groups: dict[str, int] = field(default_factory=dict, repr=False)
    _number: Callable[[str], int] | None = field(default=None, repr=False)

    def settings(self) -> Mapping[str, Any]:
        """See `Method`."""
        return {"mixture": {"by": self.by, "std": self.std, "seed": self.seed, "ends": list(self.ids)}}

    def begin(self, tuned: Tuned, form: Format, task: Task) -> Mapping[str, Scores]:
        """Draw the first weights."""
        check_match(tuned.parameters_by_name(), self.left, "the model's deltas and the left end of the mixture")
        check_match(self.left, self.right, "the ends of the mixture")
        device, names = tuned.backbone.device, list(tuned.parameters_by_name())
        group = grouping(self.by, tuned.backbone.sites, tuned.model)
        self._groups = groups = numbered(names, group)
        self._number = lambda name: groups[group(name)]
        self.left, self.right = ({name: end[name].to(device) for name in names} for end in (self.left, self.right))
        self._logits = torch.nn.Parameter(first_logits(len(groups), self.std, self.seed).to(device))
        return {}

    def point(self) -> dict[str, Tensor]:
        """The deltas of the mixture, differentiable in its weights."""
        if self._logits is None or self._number is None:
            raise DeltatuneError("a mixture has no weights before `begin`")
        return mixed(self.left, self.right, self._logits, self._number)

    def loss(self, tuned: Tuned, form: Format, batch: Batch) -> Tensor:
        """Of the mixture."""
        return form.loss(forward_with(tuned, self.point())(batch), batch)

    def trained(self, tuned: Tuned) -> Mapping[str, Tensor]:
        """The weights w, (G,)."""
        if self._logits is None:
            raise DeltatuneError("a mixture has no weights before `begin`")
        return {"logits": self._logits}

    def hold(self, tuned: Tuned) -> None:
        """The deltas are those of the mixture."""
        with torch.no_grad():
            tuned.load(self.point())

    def found(self) -> Mapping[str, Any]:
        """The share of the left end in each group."""
        shares = torch.sigmoid(self._logits.detach()).tolist() if self._logits is not None else []
        return {"share_of_left": dict(zip(self._groups, shares, strict=True))}
