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
from deltatune.subspace.objective import encode_all, reconstructions, shares, total
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
        by_tokens: the task loss of examples of one draw is a mean over their answer tokens, as published for one task; otherwise
            it is a mean over examples, which is the same however they are divided among processes.
    """

    def __init__(self, space: Subspace, tuned: Mapping[str, Tuned], sources: Sources, by_tokens: bool) -> None:
        self.space, self.tuned, self.sources, self.by_tokens = space, tuned, sources, by_tokens

    def train(self, training: bool) -> None:
        """Switch dropout."""
        for model in self.tuned.values():
            model.train(training)

    def points(self, task: int, solution: Sequence[int] | None = None) -> Tensor:
        """The points (T, k) of the solutions of a task, the first ones by default. Differentiable."""
        chosen = solution or [0] * len(self.space.names)
        vectors = [found[number] for found, number in zip(self.sources.vectors[task], chosen, strict=True)]
        return encode_all(list(self.space.encoders.values()), vectors, self.space.objective)

    def loss(self, batch: Batch) -> Tensor:
        """The objective of a batch made by `Drawn`, (): the mean over its examples.

        Examples of one draw pass the model together, without the padding of the others. Each projection is used once for all
        that the batch asks of it: at the published sizes it is read from memory for longer than the model computes.
        """
        objective, projections = self.space.objective, list(self.space.encoders.values())
        groups = _groups(batch["draw"])
        keys = [(int(batch["task"][rows[0]]), *batch["solution"][rows[0]].tolist()) for rows in groups]
        distinct = list(dict.fromkeys(keys))
        vectors = [
            torch.stack([self.sources.vectors[task][number][solution[number]] for task, *solution in distinct])
            for number in range(len(projections))
        ]
        points = encode_all(projections, vectors, objective)  # (T, K, k)
        rebuilt = reconstructions(objective.reconstruction, projections, vectors, points)  # (T, K)
        of_group = [distinct.index(key) for key in keys]
        losses = rebuilt.new_zeros(len(projections), len(groups))
        if objective.terms != "reconstruction":
            shares = torch.stack([batch["shares"][rows[0]] for rows in groups], dim=1)  # (T, G, T)
            mixed = (shares.unsqueeze(-1) * points[:, of_group].transpose(0, 1)).sum(dim=2)  # (T, G, k)
            losses = self._task_losses(batch, groups, keys, mixed)
        parts = [total(objective, rebuilt[:, k], losses[:, g]) * len(groups[g]) for g, k in enumerate(of_group)]
        return torch.stack(parts).sum() / len(batch["draw"])

    def _task_losses(self, batch: Batch, groups: Sequence[Tensor], keys: Sequence[Sequence[int]], mixed: Tensor) -> Tensor:
        """The task losses (T, G) of every delta at every group's point (T, G, k)."""
        own = {name: tensor for name, tensor in batch.items() if name not in EXTRA}
        parts = [own if len(groups) == 1 else trimmed({n: tensor[rows] for n, tensor in own.items()}) for rows in groups]
        losses = []
        for (name, tuned), points in zip(self.tuned.items(), mixed, strict=True):
            decoded = self.space.projections[name].decode(points)
            losses += [
                self.task_loss(self.sources.forms[task], tuned, self.space.shaped(name, vector), part)
                for vector, part, (task, *_) in zip(decoded, parts, keys, strict=True)
            ]
        return torch.stack(losses).reshape(len(self.tuned), len(groups))

    def task_loss(self, form: Format, tuned: Tuned, weights: Weights, batch: Batch) -> Tensor:
        """The task's loss with `weights` in place of the delta's, ()."""
        logits = forward_with(tuned, weights)(batch)
        if self.by_tokens:
            return form.loss(logits, batch)
        rows = [form.loss(logits[i : i + 1], {name: t[i : i + 1] for name, t in batch.items()}) for i in range(len(logits))]
        return torch.stack(rows).mean()

    def rebuilt(self, task: int) -> dict[str, float]:
        """How far each delta's first solution is from what its point is decoded into, as a share of its length."""
        projections, vectors = list(self.space.encoders.values()), [found[0] for found in self.sources.vectors[task]]
        with torch.no_grad():
            values = reconstructions("relative", projections, vectors, self.points(task))
        return dict(zip(self.space.names, values.tolist(), strict=True))


def _groups(draw: Tensor) -> list[Tensor]:
    return [torch.nonzero(draw == number).flatten() for number in sorted(set(draw.tolist()))]


def trimmed(batch: Batch) -> Batch:
    """A batch without the columns at the right that are padding in every row, of inputs and of answers."""
    widths: dict[int, int] = {}
    for mark, filled in (("attention_mask", 0), ("labels", -100)):
        if mark in batch and batch[mark].dim() == 2:
            used = torch.nonzero((batch[mark] != filled).any(dim=0))
            widths[batch[mark].shape[1]] = max(widths.get(batch[mark].shape[1], 0), int(used[-1]) + 1 if len(used) else 1)
    return {name: t[:, : widths[t.shape[1]]] if t.dim() == 2 and t.shape[1] in widths else t for name, t in batch.items()}


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
