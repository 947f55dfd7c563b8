"""Training examples of several tasks, and the random shares and solutions that each is trained with.

What is drawn depends on the seed, the update and the example (or its task, or its batch) alone, not on the process or on what
was drawn before. So several processes do what one does, evaluation changes nothing, and a resumed run repeats the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from deltatune.core.batches import Batch, Batches, MicroBatch, derived_seed
from deltatune.core.errors import DeltatuneError
from deltatune.subspace.objective import Draw, Mixing, shares

Item = TypeVar("Item")

# What a batch carries beside what the model reads.
EXTRA = ("task", "index", "draw", "solution", "shares")


def exactly(items: Sequence[Item], count: int | None) -> list[Item]:
    """`count` items: the first ones, of too few all of them again and again; None takes all as they are.

    Raises:
        DeltatuneError: there are none, or `count` is below 1.
    """
    if count is None:
        return list(items)
    if count < 1 or not items:
        raise DeltatuneError(f"lines per task must be at least 1 and a task must have some, got {count} of {len(items)}")
    whole, rest = divmod(count, len(items)) if len(items) < count else (0, count)
    return [*(list(items) * whole), *items[:rest]]


def tagged(parts: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The features of all tasks, one task after another, each with the number of its task and of itself."""
    rows = [(task, feature) for task, features in enumerate(parts) for feature in features]
    return [{**feature, "task": task, "index": index} for index, (task, feature) in enumerate(rows)]


def collating(collate: Callable[[Sequence[dict[str, Any]]], Batch]) -> Callable[[list[dict[str, Any]]], Batch]:
    """`collate` of a format, keeping the numbers of task and example."""

    def both(features: list[dict[str, Any]]) -> Batch:
        numbers = {key: torch.tensor([feature[key] for feature in features]) for key in ("task", "index")}
        return {**collate(features), **numbers}

    return both


@dataclass(frozen=True)
class Drawn:
    """`Batches` whose micro-batches also hold what is drawn; a source of batches for `fit`.

    Added are: draw (B,), equal for rows that share one draw; solution (B, T), which solution of each delta; shares (B, T, T), see
    `deltatune.subspace.objective.shares`.

    Args:
        inner: of features made by `tagged`.
        seed: of the draws.
        mixing: how shares are drawn.
        per: what has a draw of its own.
        solutions: for each task, the number of solutions of each delta.
    """

    inner: Batches[dict[str, Any]]
    seed: int
    mixing: Mixing
    per: Draw
    solutions: Sequence[Sequence[int]]

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.inner.size

    def per_epoch(self, accumulation: int = 1) -> int:
        """See `Batches.per_epoch`."""
        return self.inner.per_epoch(accumulation)

    def micro_batches(self, step: int, accumulation: int = 1, rank: int = 0, world: int = 1) -> list[MicroBatch]:
        """See `Batches.micro_batches`."""
        parts = self.inner.micro_batches(step, accumulation, rank, world)
        lengths = [len(group[rank::world]) for group in self.inner.indices(step, accumulation)]
        found, number, seen = [], 0, 0
        for part in parts:
            while seen >= lengths[number]:  # the next micro-batch; a process may have no row of one
                number, seen = number + 1, 0
            seen += part.rows
            found.append(part._replace(batch=self._with_draws(part.batch, step, number)))
        return found

    def _with_draws(self, batch: Batch, step: int, number: int) -> Batch:
        tasks, indices = batch["task"].tolist(), batch["index"].tolist()
        keys = {"example": indices, "task": tasks}.get(self.per, [0] * len(tasks))
        made: dict[tuple[int, int], tuple[int, Tensor, Tensor]] = {}
        for task, key in zip(tasks, keys, strict=True):
            if (task, key) not in made:
                made[task, key] = (len(made), *self._draw(task, step, number, key))
        rows = [made[pair] for pair in zip(tasks, keys, strict=True)]
        return {
            **batch,
            "draw": torch.tensor([row[0] for row in rows]),
            "solution": torch.stack([row[1] for row in rows]),
            "shares": torch.stack([row[2] for row in rows]),
        }

    def _draw(self, task: int, step: int, number: int, key: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(derived_seed("mixing", self.seed, step, number, key))
        counts = self.solutions[task]
        chosen = torch.stack([torch.randint(count, (), generator=generator) for count in counts])
        return chosen, shares(self.mixing, len(counts), generator)


def per_of(draw: Draw, tasks: int) -> Draw:
    """What has a draw of its own: as published for one task and for several, where nothing was chosen."""
    if draw != "auto":
        return draw
    return "batch" if tasks == 1 else "example"
