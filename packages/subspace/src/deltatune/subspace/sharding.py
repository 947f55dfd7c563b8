"""Projections divided among the processes of a launch: each holds some values of every delta, and what belongs to these.

Of a delta of D values, process r of N holds the rows V_r of the decoder and the columns W1_r of the encoder for about D / N of
them, and the small tensors whole. All processes encode or decode together, each what it asks for itself:

    W1 x = sum_r W1_r x_r        every process sends the values x_r to r, and gets the k numbers W1_r x_r back
    V P  = (V_1 P, ..., V_N P)   every process sends its point P to r, and gets the values V_r P back

so no process ever sees another's tensors. Both are made of one differentiable step, `exchange`. What processes send has one
shape; who asks for less sends zeros beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional

from deltatune.core.batches import MicroBatch
from deltatune.core.errors import DeltatuneError
from deltatune.core.processes import Processes
from deltatune.core.shards import Divided, Shard, connected, greatest
from deltatune.subspace.draws import Drawn
from deltatune.subspace.projections import ACTIVATIONS, Activation, Projection, as_kept, first_values, named

DIVIDED = {"encoder_weight": 1, "decoder_weight": 0}  # field -> which dimension runs over the values of the delta


def spans(length: int, count: int) -> list[tuple[int, int]]:
    """(start, end) of each of `count` parts of `length` values, of lengths that differ by one at most.

    Raises:
        DeltatuneError: a part would be empty.
    """
    if length < count:
        raise DeltatuneError(f"a delta of {length} values cannot be divided among {count} processes; give --shard false")
    ends = [(length * number + count - 1) // count for number in range(count + 1)]
    return list(pairwise(ends))


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sent: Tensor) -> Tensor:
        return _exchanged(sent)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _exchanged(gradient)


def _exchanged(sent: Tensor) -> Tensor:
    received = torch.empty_like(sent, memory_format=torch.contiguous_format)
    with connected():
        distributed.all_to_all_single(received, sent.contiguous())
    return received


def exchange(sent: Tensor) -> Tensor:
    """(N, ...), of which row r goes to process r -> (N, ...), whose row r came from process r. Differentiable.

    With a loss on each process, gradients are those of the sum of all losses, if all call `backward` together.

    Raises:
        SharedError: another process has ended.
    """
    received: Tensor = _Exchange.apply(sent)
    return received


@dataclass(frozen=True)
class ShardedProjection(Projection):
    """This process's part of a projection; all processes call `encode` and `decode` together, each with arguments of its own.

    Args:
        encoder_weight: W1_r (k, D_r).
        decoder_weight: V_r (D_r, k).
        whole: D.
        processes: those of the launch, connected.
    """

    whole: int
    processes: Processes

    @property
    def size(self) -> int:
        """D, the length of the whole delta."""
        return self.whole

    def encode(self, vectors: Tensor, activation: Activation = "tanh", second: Projection | None = None) -> Tensor:
        """See `Projection.encode`; `vectors` hold whole deltas, of which no gradient is taken."""
        low, dtype = second or self, self.encoder_weight.dtype
        with as_kept(vectors):
            rows, count = self._rows(vectors.detach().to(dtype))
            widest = max(end - start for start, end in self._spans)
            parts = torch.stack([functional.pad(rows[:, a:b], (0, widest - (b - a))) for a, b in self._spans])
            own = exchange(parts)[..., : self.encoder_weight.shape[1]]
            # Added up in float32, as one matrix product does it within.
            products = exchange(functional.linear(own, self.encoder_weight).float()).sum(dim=0)[:count]
            inner = ACTIVATIONS[activation]((products + self.encoder_bias.float()).to(dtype))
            points = functional.linear(inner, low.encoder_low_weight, low.encoder_low_bias).float()
            return points.reshape(*vectors.shape[:-1], self.k)

    def decode(self, points: Tensor) -> Tensor:
        """See `Projection.decode`."""
        with as_kept(points):
            rows, count = self._rows(points)
            asked = exchange(rows.expand(self.processes.count, *rows.shape)).to(self.decoder_weight.dtype)
            values = functional.linear(asked, self.decoder_weight)  # (N, n, D_r)
            widest = max(end - start for start, end in self._spans)
            parts = exchange(functional.pad(values, (0, widest - values.shape[-1])))
            pairs = zip(parts, self._spans, strict=True)
            whole = torch.cat([part[:count, : end - start] for part, (start, end) in pairs], dim=-1)
            return whole.float().reshape(*points.shape[:-1], self.whole)

    @property
    def _spans(self) -> list[tuple[int, int]]:
        return spans(self.whole, self.processes.count)

    def _rows(self, tensor: Tensor) -> tuple[Tensor, int]:
        """(n, last) with as many rows as the process that asks for most has, and how many are this process's own."""
        rows = tensor.reshape(-1, tensor.shape[-1])
        return functional.pad(rows, (0, 0, 0, greatest(len(rows), rows.device) - len(rows))), len(rows)


def draw_part(
    size: int, k: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device, processes: Processes
) -> ShardedProjection:
    """This process's part of what `deltatune.subspace.projections.draw` draws, on `device`; one whole tensor at a time.

    Raises:
        DeltatuneError: as `draw` and `spans`.
    """
    start, end = spans(size, processes.count)[processes.rank]
    kept = {}
    for field, tensor in first_values(size, k, generator):
        part = tensor.narrow(DIVIDED[field], start, end - start) if field in DIVIDED else tensor
        kept[field] = part.clone(memory_format=torch.contiguous_format).to(device, dtype)
    return ShardedProjection(**kept, whole=size, processes=processes)


def trained(projections: Mapping[str, Projection]) -> dict[str, Tensor]:
    """`delta.field` -> tensor as `fit` trains it: of divided projections, it knows which are parts."""
    tensors = named(projections)
    parts = {
        f"{name}.{field}": Shard(dim, own.whole)
        for name, own in projections.items()
        if isinstance(own, ShardedProjection)
        for field, dim in DIVIDED.items()
    }
    return Divided(tensors, parts) if parts else tensors


def assembled(projections: Mapping[str, Projection]) -> dict[str, Projection]:
    """On the first process the whole projections, on the CPU where they were divided; all processes call this.

    Parts are sent one by one, so the first process holds the whole once beside its own part, the others nothing more.

    Raises:
        SharedError: another process has ended.
    """
    return {name: _assembled(own) if isinstance(own, ShardedProjection) else own for name, own in projections.items()}


def _assembled(own: ShardedProjection) -> Projection:
    tensors = own.tensors()
    for field, dim in DIVIDED.items():
        tensors[field] = _collected(tensors[field].detach(), dim, spans(own.whole, own.processes.count), own.processes.rank)
    if own.processes.rank:
        return own
    return Projection(**{item.name: tensors[item.name].detach().cpu() for item in fields(Projection)})


def _collected(part: Tensor, dim: int, places: list[tuple[int, int]], rank: int) -> Tensor:
    if rank:
        with connected():
            distributed.send(part.contiguous(), 0)
        return part
    shape = list(part.shape)
    shape[dim] = places[-1][1]
    whole = torch.empty(shape, dtype=part.dtype)
    for sender, (start, end) in enumerate(places):
        place = whole.narrow(dim, start, end - start)
        if sender == 0:
            place.copy_(part)
            continue
        received = torch.empty(place.shape, dtype=part.dtype, device=part.device)
        with connected():
            distributed.recv(received, sender)
        place.copy_(received)
    return whole


@dataclass(frozen=True)
class Lockstep:
    """A source of batches for `fit` by which all processes pass equally many parts, since they encode and decode together.

    A process that would pass fewer passes one of its own again, which counts nothing.

    Args:
        inner: the source.
        device: where is computed.
    """

    inner: Drawn
    device: torch.device

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.inner.size

    def per_epoch(self, accumulation: int = 1) -> int:
        """See `Batches.per_epoch`."""
        return self.inner.per_epoch(accumulation)

    def micro_batches(self, step: int, accumulation: int = 1, rank: int = 0, world: int = 1) -> list[MicroBatch]:
        """See `Batches.micro_batches`; all processes call this together."""
        own = self.inner.micro_batches(step, accumulation, rank, world)
        other = own or self.inner.micro_batches(step, accumulation)  # a process may have no row of any
        return own + [other[0]._replace(weight=0.0)] * (greatest(len(own), self.device) - len(own))
