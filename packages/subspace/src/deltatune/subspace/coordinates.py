"""Subspace optimization: only the k coordinates of a point are tuned, through the decoder of one delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from deltatune.core.batches import Batch
from deltatune.core.data import Task
from deltatune.core.delta import Tuned, forward_with
from deltatune.core.evaluation import Scores
from deltatune.core.formats import Format
from deltatune.core.method import Method
from deltatune.subspace.projections import STD
from deltatune.subspace.space import Subspace

Decoders = Literal["trained", "random"]
First = Literal["random", "mean"]


@dataclass
class Coordinates(Method):
    """Tuning the point I (k,) of a subspace on the task loss; the deltas hold what it is decoded into.

    Args:
        space: the subspace.
        source: name of the delta that it is decoded into while it is tuned.
        seed: of the first point and of random decoders.
        decoders: the trained ones, or (control) random ones with columns of the same lengths.
        first: the point begins random, N(0, 0.02^2) (published), or at the mean of the source points.
    """

    space: Subspace
    source: str
    seed: int = 0
    decoders: Decoders = "trained"
    first: First = "random"
    _used: Subspace | None = field(default=None, repr=False)
    _point: Tensor | None = field(default=None, repr=False)

    def settings(self) -> Mapping[str, Any]:
        """See `Method`."""
        settings = {"subspace": self.space.digest, "source": self.source, "point_seed": self.seed, "decoders": self.decoders}
        return {**settings, "first": self.first}

    def begin(self, tuned: Tuned, form: Format, task: Task) -> Mapping[str, Scores]:
        """Take the first point and give the delta its values.

        Raises:
            DeltatuneError: another model than the subspace's, or no such delta.
        """
        self.space.require(self.source)
        self.space.require_base(tuned.backbone)
        self._used = used_space(self.space, self.decoders, self.seed).to(tuned.backbone.device)
        if self.first == "mean":
            first = self.space.mean_point()
        else:
            first = torch.randn(self.space.k, generator=torch.Generator().manual_seed(self.seed)) * STD
        self._point = first.to(tuned.backbone.device).requires_grad_(True)
        self.hold(tuned)
        return {}

    def loss(self, tuned: Tuned, form: Format, batch: Batch) -> Tensor:
        """The task loss at the point."""
        used, point = self._begun()
        return form.loss(forward_with(tuned, used.decode(self.source, point))(batch), batch)

    def trained(self, tuned: Tuned) -> Mapping[str, Tensor]:
        """The point."""
        return {"coordinates": self._begun()[1]}

    def hold(self, tuned: Tuned) -> None:
        """Decode the point into the delta."""
        used, point = self._begun()
        with torch.no_grad():
            tuned.load(used.decode(self.source, point))

    def found(self) -> Mapping[str, Any]:
        """The coordinates."""
        return {"coordinates": self._begun()[1].tolist()}

    def _begun(self) -> tuple[Subspace, Tensor]:
        if self._used is None or self._point is None:
            raise RuntimeError("Coordinates.begin was not called")
        return self._used, self._point


def used_space(space: Subspace, decoders: Decoders, seed: int) -> Subspace:
    """The subspace that a run with these settings decodes through."""
    return space if decoders == "trained" else space.with_random_decoders(seed)
