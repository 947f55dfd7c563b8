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
        weight: factor of its loss; those of all parts and processes add up to 1.
        rows: examples in it.
        length: tokens of its longest input, 0 where examples carry no `input_ids`.
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
        token_budget: most padded tokens, of inputs and of answers, in one forward pass; a micro-batch above it is passed
            in several parts. It bounds memory and leaves the objective of an update as it was.
        choose: picks one of several answers of an example, with a generator of its own per (seed, epoch, example).
        weigh: what an example counts in the mean that the loss of a batch is, such as the tokens of its answer; by
            default 1.
        lengths: tokens of each sequence of an example, the input first (`group_by_length` looks at it alone); by default
            those of its `input_ids` and, where they are a sequence, of its `labels`.

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
    weigh: Callable[[Feature], int] | None = None
    lengths: Callable[[Feature], tuple[int, ...]] | None = None

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

        Each micro-batch is dealt out over the processes, so an update sees the same examples however many there are. The
        objective of an update is the mean over its micro-batches' losses, each counted by its examples; the loss of a
        micro-batch is the mean that `weigh` says. The weights of the parts make the sum over parts and processes that.
        """
        epoch = step // self.per_epoch(accumulation)
        groups = self.indices(step, accumulation)
        rows = sum(map(len, groups))
        found = []
        for group in groups:
            # Drawn for all processes: each has to know what the others' examples count.
            features = [self._feature(index, epoch) for index in group]
            whole = sum(map(self._weigh, features))
            for part in self._split(features[rank::world]):
                share = sum(map(self._weigh, part))
                found.append(self._collate(part, len(group) * share / (rows * whole)))
        return found

    @cached_property
    def _count(self) -> int:
        return -(-len(self.features) // self.batch_size)

    @cached_property
    def _lengths(self) -> list[int]:
        return [self._widths(feature)[0] for feature in self.features]

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

    def _split(self, group: list[Feature]) -> list[list[Feature]]:
        if self.token_budget is None or not group:
            return [group] if group else []
        parts: list[list[Feature]] = []
        padded: tuple[int, ...] = ()  # widths of the last part
        for feature in sorted(group, key=self._widths, reverse=True):
            own = self._widths(feature)
            both = tuple(map(max, padded, own))
            if parts and sum(both) * (len(parts[-1]) + 1) <= self.token_budget:
                parts[-1].append(feature)
                padded = both
            else:
                parts.append([feature])
                padded = own
        return parts

    def _widths(self, feature: Feature) -> tuple[int, ...]:
        return (self.lengths or _lengths)(feature)

    def _weigh(self, feature: Feature) -> int:
        return 1 if self.weigh is None else self.weigh(feature)

    def _collate(self, part: list[Feature], weight: float) -> MicroBatch:
        batch = self.collate(part)
        width = batch["input_ids"].shape[-1] if "input_ids" in batch else 0
        return MicroBatch(batch, weight, len(part), width)

    def _feature(self, index: int, epoch: int) -> Feature:
        if self.choose is None:
            return self.features[index]
        generator = torch.Generator().manual_seed(derived_seed("choice", self.seed, epoch, index))
        return self.choose(self.features[index], generator)


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _lengths(feature: Any) -> tuple[int, ...]:
    held = feature if isinstance(feature, Mapping) else vars(feature)
    labels = held.get("labels")
    return (len(held["input_ids"]), *([len(labels)] if isinstance(labels, Sequence) else []))


def pad(features: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """input_ids, attention_mask and (where there are any) token_type_ids, (B, T) int64, padded on the right."""
    batch = {"input_ids": pad_rows([feature["input_ids"] for feature in features], pad_id)}
    lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
    batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
    if "token_type_ids" in features[0]:
        batch["token_type_ids"] = pad_rows([feature["token_type_ids"] for feature in features], 0)
    return batch


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """`rows` as (B, T) int64, T the longest of them, filled up on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
