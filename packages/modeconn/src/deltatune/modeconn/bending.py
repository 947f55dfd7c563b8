"""A curve of low loss between two tuned models as a method of `tune_to` (Garipov et al. 2018; the paper, 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from deltatune.core import checkpoint
from deltatune.core.batches import Batch
from deltatune.core.data import Example, Task
from deltatune.core.delta import Tuned, forward_with
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.formats import Feature, Format
from deltatune.core.method import Method
from deltatune.core.weights import Weights, check_match, flatten, unflatten
from deltatune.modeconn.curves import EVEN_VALIDATION, Kind, along, curve, same_middle, straight

Begin = Literal["line", "middle", "random"]


@dataclass
class Bend(Method):
    """Learn the control points of a curve: E over t of L(phi(t)), both ends fixed.

    Args:
        left: the end at t = 0, as a delta.
        right: the end at t = 1.
        ids: which ends these are, for the run's identity.
        out_dir: where the control points are kept, in `controls`.
        kind: Bezier curve or polygonal chain.
        bends: number of control points.
        begin_at: the controls start on the line at equal distances (line), all in its middle (middle, the published whole-model
            version), or at N(0, std) (random, as the published version for adapters).
        std: see `begin_at`.
        seed: of a random start.
        draws: t drawn in one update (published: 1 for deltas, 3 for whole models).
        reduction: the mean of the losses of the draws, or their sum (as published).
        at: points t whose mean dev score selects.
    """

    left: Weights
    right: Weights
    ids: Sequence[Mapping[str, Any]]
    out_dir: Path
    kind: Kind = "bezier"
    bends: int = 1
    begin_at: Begin = "line"
    std: float = 0.02
    seed: int = 0
    draws: int = 1
    reduction: Literal["mean", "sum"] = "mean"
    at: Sequence[float] = EVEN_VALIDATION
    _controls: torch.nn.Parameter | None = field(default=None, repr=False)
    _ends: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _tuned: Tuned | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what gives no curve."""
        curve(self.kind, self.bends)
        if self.draws < 1:
            raise DeltatuneError(f"--draws must be at least 1, got {self.draws}")
        if not self.at or not all(0 <= t <= 1 for t in self.at):
            raise DeltatuneError(f"--validate_at must be places from 0 to 1, got {list(self.at)}")
        check_match(self.left, self.right, "the ends of the curve")

    def settings(self) -> Mapping[str, Any]:
        """See `Method`."""
        names = ("kind", "bends", "begin_at", "std", "seed", "draws", "reduction")
        return {"curve": {name: getattr(self, name) for name in names} | {"at": list(self.at), "ends": list(self.ids)}}

    def begin(self, tuned: Tuned, form: Format, task: Task) -> Mapping[str, Scores]:
        """Place the control points."""
        check_match(tuned.parameters_by_name(), self.left, "the model's deltas and the left end of the curve")
        device, self._tuned = tuned.backbone.device, tuned
        # In the order of the model's tensors, in which a vector is cut up again.
        names = list(tuned.parameters_by_name())
        left, right = (flatten({name: end[name] for name in names}).to(device) for end in (self.left, self.right))
        self._ends = left, right
        if self.begin_at == "random":
            noise = torch.randn(self.bends, len(left), generator=torch.Generator().manual_seed(self.seed))
            start = (self.std * noise).to(device)
        else:
            start = (straight if self.begin_at == "line" else same_middle)(left, right, self.bends)
        self._controls = torch.nn.Parameter(start)
        return {}

    def point(self, t: float) -> dict[str, Tensor]:
        """The deltas at t, differentiable in the control points."""
        controls, (left, right), tuned = self._known()
        vector = along(curve(self.kind, self.bends)(t), left, right, controls)
        return unflatten(vector, tuned.parameters_by_name())

    def _known(self) -> tuple[torch.nn.Parameter, tuple[Tensor, Tensor], Tuned]:
        if self._controls is None or self._ends is None or self._tuned is None:
            raise DeltatuneError("a curve has no points before `begin`")
        return self._controls, self._ends, self._tuned

    def loss(self, tuned: Tuned, form: Format, batch: Batch) -> Tensor:
        """At `draws` places t, uniform on [0, 1]; the loop seeds the draw by the number of the update."""
        losses = [
            form.loss(forward_with(tuned, self.point(float(torch.rand(()))))(batch), batch)
            for _ in range(self.draws)
        ]  # fmt: skip
        total = torch.stack(losses).sum()
        return total / self.draws if self.reduction == "mean" else total

    def trained(self, tuned: Tuned) -> Mapping[str, Tensor]:
        """The control points as one tensor (bends, D)."""
        return {"controls": self._known()[0]}

    def hold(self, tuned: Tuned) -> None:
        """The deltas are those in the middle of the curve."""
        with torch.no_grad():
            tuned.load(self.point(0.5))

    def score(self, tuned: Tuned, form: Format, examples: Sequence[Example], features: Sequence[Feature]) -> float:
        """Mean over the validation points."""
        values = []
        for t in self.at:
            with torch.no_grad():
                tuned.load(self.point(t))
            values.append(evaluate(tuned, form, examples, features).value)
        self.hold(tuned)
        return fmean(values)

    def found(self) -> Mapping[str, Any]:
        """Keep the control points, each as a delta folder."""
        controls, _, tuned = self._known()
        like = tuned.parameters_by_name()
        for number, control in enumerate(controls.detach(), start=1):
            about = {"control": number, "curve": dict(self.settings()["curve"])}
            checkpoint.save(self.out_dir / "controls" / str(number), tuned, about, unflatten(control, like))
        return {"controls": len(controls), "delta_at": 0.5}
