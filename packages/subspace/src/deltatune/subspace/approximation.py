"""Subspace approximation: the objective of a batch, and deterministic scores of points of the subspace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.core.batches import Batch
from deltatune.core.data import Example
from deltatune.core.delta import Tuned, forward_with
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.formats import Feature, Format
from deltatune.core.weights import Weights
from deltatune.subspace.draws import EXTRA
from deltatune.subspace.objective import Draw, encode_all, reconstructions, shares, total
from deltatune.subspace.space import Subspace


@dataclass(frozen=True)
class Sources:
    """The source tasks in memory.

    Args:
        names: of the tasks, in order.
        forms: how each is asked.
        vectors: for each task and delta, its solutions (N, D), as differences to the initial values.
    """

    names: Sequence[str]
    forms: Sequence[Format]
    vectors: Sequence[Sequence[Tensor]]

    def counts(self) -> list[list[int]]:
        """The number of solutions of each delta, for each task."""
        return [[len(found) for found in own] for own in self.vectors]


class Approximation:
    """A subspace in training.

    Args:
        space: its projections hold the trained tensors.
        tuned: for each delta the model with it alone, in the order of the subspace.
        sources: what is approximated.
        per: what has a draw of its own; of a batch drawn as one the task loss is a mean over answer tokens, otherwise over
            examples.
    """

    def __init__(self, space: Subspace, tuned: Mapping[str, Tuned], sources: Sources, per: Draw) -> None:
        self.space, self.tuned, self.sources, self.per = space, tuned, sources, per

    def train(self, training: bool) -> None:
        """Switch dropout."""
        for model in self.tuned.values():
            model.train(training)

    def points(self, task: int, solution: Sequence[int] | None = None) -> Tensor:
        """The points (T, k) of the solutions of a task, the first ones by default. Differentiable."""
        chosen = solution or [0] * len(self.space.names)
        vectors = [found[number] for found, number in zip(self.sources.vectors[task], chosen, strict=True)]
        return encode_all(list(self.space.projections.values()), vectors, self.space.objective)

    def loss(self, batch: Batch) -> Tensor:
        """The objective of a batch made by `Drawn`, (): the mean over its examples."""
        value = torch.zeros((), device=batch["draw"].device)
        for rows in _groups(batch["draw"]):
            first = int(rows[0])
            part = {name: tensor[rows] for name, tensor in batch.items() if name not in EXTRA}
            task, solution = int(batch["task"][first]), batch["solution"][first].tolist()
            own = self._loss_of(part, task, solution, batch["shares"][first])
            value = value + own * (len(rows) / len(batch["draw"]))
        return value

    def _loss_of(self, part: Batch, task: int, solution: Sequence[int], share: Tensor) -> Tensor:
        objective, projections = self.space.objective, list(self.space.projections.values())
        vectors = [found[number] for found, number in zip(self.sources.vectors[task], solution, strict=True)]
        points = encode_all(projections, vectors, objective)
        rebuilt = reconstructions(objective.reconstruction, projections, vectors, points)
        losses = torch.zeros_like(rebuilt)
        if objective.terms != "reconstruction":
            mixed = share @ points
            losses = torch.stack(
                [
                    self.task_loss(self.sources.forms[task], tuned, self.space.decode(name, point), part)
                    for (name, tuned), point in zip(self.tuned.items(), mixed, strict=True)
                ]
            )
        return total(objective, rebuilt, losses)

    def task_loss(self, form: Format, tuned: Tuned, weights: Weights, batch: Batch) -> Tensor:
        """The task's loss with `weights` in place of the delta's, ()."""
        logits = forward_with(tuned, weights)(batch)
        if self.per == "batch":
            return form.loss(logits, batch)
        rows = [form.loss(logits[i : i + 1], {name: t[i : i + 1] for name, t in batch.items()}) for i in range(len(logits))]
        return torch.stack(rows).mean()

    def rebuilt(self, task: int) -> dict[str, float]:
        """How far each delta's first solution is from what its point is decoded into, as a share of its length."""
        projections, vectors = list(self.space.projections.values()), [found[0] for found in self.sources.vectors[task]]
        with torch.no_grad():
            values = reconstructions("relative", projections, vectors, self.points(task))
        return dict(zip(self.space.names, values.tolist(), strict=True))


def _groups(draw: Tensor) -> list[Tensor]:
    return [torch.nonzero(draw == number).flatten() for number in sorted(set(draw.tolist()))]


def places(names: Sequence[str], mixtures: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """Named shares (T,) at which a subspace is scored: every delta's own point, the centroid, and seeded mixtures."""
    count = len(names)
    found = {name: torch.eye(count)[number] for number, name in enumerate(names)}
    if count > 1:
        found["centroid"] = torch.full((count,), 1 / count)
        generator = torch.Generator().manual_seed(seed)
        found |= {f"mixture-{number}": shares("dirichlet", count, generator)[0] for number in range(mixtures)}
    return found


def score_points(
    space: Subspace,
    tuned: Mapping[str, Tuned],
    form: Format,
    examples: Sequence[Example],
    points: Mapping[str, Tensor],
    features: Sequence[Feature] | None = None,
) -> Iterator[tuple[str, str, Scores]]:
    """(place, delta, scores) for every named point (k,) decoded into every delta of `tuned`. Nothing is drawn."""
    encoded = list(features) if features is not None else form.features(examples)
    for place, point in points.items():
        for name, model in tuned.items():
            with torch.no_grad():
                model.load(space.decode(name, point))
            yield place, name, evaluate(model, form, examples, encoded)
