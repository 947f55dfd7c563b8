"""The order of examples in training, as a function of seed, epoch and update alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError

Batch = Mapping[str, Tensor]
Feature = TypeVar("Feature")

WINDOW = 50  # batches that are sorted together by length: little padding, yet hardly any order that a run could notice


def derived_seed(purpose: str, *key: int) -> int:
    """A seed in [0, 2^63) that depends on `purpose` and `key` and is unrelated between any two of them."""
    text = ":".join((purpose, *map(str, key)))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") >> 1


class MicroBatch(NamedTuple):
    """What one forward pass sees.

    Args:
        batch: the tensors made by `collate`.
        weight: share of the update's examples in this micro-batch; the weights of all processes add up to 1.
        rows: examples in it.
        length: tokens of its longest example, 0 where examples carry no `input_ids`.
    """

    batch: Batch
    weight: float
    rows: int
    length: int


class BatchSource(Protocol):
    """What `fit` takes its batches from: `Batches`, or a stream."""

    @property
    def size(self) -> int:
        """Examples of an epoch; 0 where there are no epochs."""

    def per_epoch(self, accumulation: int = 1) -> int:
        """See `Batches.per_epoch`."""

    def micro_batches(self, step: int, accumulation: int = 1, rank: int = 0, world: int = 1) -> list[MicroBatch]:
        """See `Batches.micro_batches`; the batches of any update can be had at any time and again."""


@dataclass(frozen=True)
class Batches(Generic[Feature]):
    """The training examples in the order of their use.

    Epoch e visits every example once in an order drawn from (seed, e) alone; the last batch of an epoch may be short
    and is kept. Nothing is remembered between calls: the batches of any update can be had at any time and again.

    Args:
        features: the examples.
        collate: makes tensors of several examples, padded to the longest of them.
        batch_size: examples per micro-batch, over all processes together.
        seed: of the order, and of what `choose` draws.
        group_by_length: sort by length within windows of 50 shuffled batches, then shuffle the batches of each window.
            Less padding, so faster; off by default, since the papers draw every batch uniformly.
        token_budget: most padded input tokens in one forward pass; a micro-batch above it is passed in several parts,
            each weighted by its examples. It bounds memory and leaves the objective of an update as it was.
        choose: picks one of several answers of an example, with a generator of its own per (seed, epoch, example).
        length: tokens of an example, for `group_by_length` and `token_budget`; by default those of its `input_ids`.

    Raises:
        DeltatuneError: no examples, or a size below 1.
    """

    features: Sequence[Feature]
    collate: Callable[[list[Feature]], Batch]
    batch_size: int
    seed: int
    group_by_length: bool = False
    token_budget: int | None = None
    choose: Callable[[Feature, torch.Generator], Feature] | None = None
    length: Callable[[Feature], int] | None = None

    def __post_init__(self) -> None:
        if not self.features:
            raise DeltatuneError("no training examples; check the task's train split")
        if self.batch_size < 1:
            raise DeltatuneError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.token_budget is not None and self.token_budget < 1:
            raise DeltatuneError(f"token_budget must be at least 1 or null, got {self.token_budget}")

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.features)

    def per_epoch(self, accumulation: int = 1) -> int:
        """Updates per epoch, the last of which may hold fewer than `accumulation` micro-batches."""
        return -(-self._count // accumulation)

    def indices(self, step: int, accumulation: int = 1) -> list[list[int]]:
        """The numbers of the examples in each micro-batch of update `step` (from 0)."""
        epoch, update = divmod(step, self.per_epoch(accumulation))
        first = update * accumulation
        order = self._order(epoch)
        return [order[i] for i in range(first, min(first + accumulation, self._count))]

    def micro_batches(self, step: int, accumulation: int = 1, rank: int = 0, world: int = 1) -> list[MicroBatch]:
        """What process `rank` of `world` passes forward in update `step` (from 0).

        Each micro-batch is dealt out over the processes, so an update sees the same examples however many there are;
        the weights make the sum over parts and processes the mean over all examples of the update.
        """
        epoch = step // self.per_epoch(accumulation)
        groups = self.indices(step, accumulation)
        total = sum(map(len, groups))
        parts = [part for group in groups for part in self._split(group[rank::world])]
        return [self._collate(part, epoch, total) for part in parts]

    @cached_property
    def _count(self) -> int:
        return -(-len(self.features) // self.batch_size)

    @cached_property
    def _lengths(self) -> list[int]:
        return [(self.length or _length)(feature) for feature in self.features]

    @cached_property
    def _orders(self) -> dict[int, list[list[int]]]:
        return {}

    def _order(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch; only the latest epoch is kept, which is what updates in sequence ask for."""
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self._draw(epoch)
        return self._orders[epoch]

    def _draw(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(derived_seed("order", self.seed, epoch))
        order: list[int] = torch.randperm(len(self.features), generator=generator).tolist()
        if not self.group_by_length:
            return _chunks(order, self.batch_size)
        batches: list[list[int]] = []
        for window in _chunks(order, WINDOW * self.batch_size):
            grouped = _chunks(sorted(window, key=lambda i: self._lengths[i]), self.batch_size)
            batches += [grouped[i] for i in torch.randperm(len(grouped), generator=generator).tolist()]
        return batches

    def _split(self, group: list[int]) -> list[list[int]]:
        if self.token_budget is None or not group:
            return [group] if group else []
        parts: list[list[int]] = []
        for index in sorted(group, key=lambda i: -self._lengths[i]):
            # Sorted, so the first example of a part is its longest and the part's width.
            if parts and self._lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= self.token_budget:
                parts[-1].append(index)
            else:
                parts.append([index])
        return parts

    def _collate(self, part: list[int], epoch: int, total: int) -> MicroBatch:
        batch = self.collate([self._feature(index, epoch) for index in part])
        width = batch["input_ids"].shape[-1] if "input_ids" in batch else 0
        return MicroBatch(batch, len(part) / total, len(part), width)

    def _feature(self, index: int, epoch: int) -> Feature:
        if self.choose is None:
            return self.features[index]
        generator = torch.Generator().manual_seed(derived_seed("choice", self.seed, epoch, index))
        return self.choose(self.features[index], generator)


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _length(feature: Any) -> int:
    return len(feature["input_ids"] if isinstance(feature, Mapping) else feature.input_ids)
