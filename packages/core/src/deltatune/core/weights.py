"""Arithmetic on deltas.

`Weights` maps a name (path of a module of the base model plus a parameter) to a tensor; the order of names is part of the
value. Every function is out of place, insists on equal names and shapes, and accumulates in float32 or wider: sums taken in
bfloat16 lose half their digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError

Weights = Mapping[str, Tensor]

# Matrices that the T5 papers write as (in, out) and that are kept here as `torch.nn.Linear` keeps them, (out, in).
_INPUT_MAJOR = ("lora_A.weight", "lora_B.weight", "houlsby_down.weight", "houlsby_up.weight")


def check_match(reference: Weights, other: Weights, what: str = "weights") -> None:
    """Require the same names and shapes.

    Raises:
        DeltatuneError: naming the first three missing and extra names, or the first pair of different shapes.
    """
    missing = [name for name in reference if name not in other]
    extra = [name for name in other if name not in reference]
    if missing or extra:
        raise DeltatuneError(
            f"{what} do not match: missing {', '.join(missing[:3]) or 'none'} ({len(missing)} in all), "
            f"extra {', '.join(extra[:3]) or 'none'} ({len(extra)} in all); take deltas of one kind, size and base"
        )
    for name, tensor in reference.items():
        if tensor.shape != other[name].shape:
            raise DeltatuneError(
                f"{what} do not match: {name} is {tuple(tensor.shape)} here and {tuple(other[name].shape)} there; "
                "take deltas of one size"
            )


def combine(parts: Sequence[Weights], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """The sum of `coefficients[i] * parts[i]`, any real coefficients, in the dtype of the first part.

    Names stay those of the first part. LoRA factors are combined as factors: the sum of two updates B A is another thing.

    Raises:
        DeltatuneError: nothing to combine, unequal lengths, names or shapes.
    """
    if not parts or len(parts) != len(coefficients):
        raise DeltatuneError(f"combine: {len(parts)} weights and {len(coefficients)} coefficients; give one coefficient for each")
    for part in parts[1:]:
        check_match(parts[0], part)
    return {name: weighted_sum((part[name] for part in parts), coefficients).to(first.dtype) for name, first in parts[0].items()}


def weighted_sum(tensors: Iterator[Tensor] | Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Sum of tensors times coefficients, float32 (float64 for float64 input); holds two tensors at a time."""
    total: Tensor | None = None
    for tensor, coefficient in zip(tensors, coefficients, strict=True):
        term = coefficient * _wide(tensor)
        total = term if total is None else total + term
    if total is None:
        raise DeltatuneError("weighted_sum: nothing to add")
    return total


def lerp(left: Weights, right: Weights, t: float) -> dict[str, Tensor]:
    """The point `(1 - t) * left + t * right` of the straight line; exactly `left` at 0 and `right` at 1."""
    return combine([left, right], [1.0 - t, t])


def difference(tuned: Weights, base: Weights) -> dict[str, Tensor]:
    """`tuned - base`: the delta that leads from `base` to `tuned`."""
    return combine([tuned, base], [1.0, -1.0])


def add(base: Weights, delta: Weights, scale: float = 1.0) -> dict[str, Tensor]:
    """`base + scale * delta` on the names that `delta` has; the other names of `base` unchanged."""
    check_match(delta, {name: base[name] for name in delta if name in base}, "delta and base")
    return {name: weighted_sum((t, delta[name]), (1.0, scale)).to(t.dtype) if name in delta else t for name, t in base.items()}


def distance(left: Weights, right: Weights, group: Callable[[str], str] | None = None) -> dict[str, float]:
    """Euclidean distance, accumulated in float64.

    Args:
        left: one end.
        right: the other, same names and shapes.
        group: maps a name to its group; the result then has one distance a group, in order of first appearance. By default
            all tensors are in the group "all".
    """
    check_match(left, right)
    squares: dict[str, float] = {}
    for name, tensor in left.items():
        key = group(name) if group else "all"
        gap = _double(tensor) - _double(right[name])
        squares[key] = squares.get(key, 0.0) + float(gap.square().sum())
    return {key: sqrt(value) for key, value in squares.items()}


def norm(weights: Weights) -> float:
    """Euclidean length, accumulated in float64."""
    return sqrt(sum(float(_double(tensor).square().sum()) for tensor in weights.values()))


def cosine(left: Weights, right: Weights) -> float:
    """Cosine of the angle between two deltas, as one long vector each; nan if one is zero."""
    check_match(left, right)
    product = sum(float((_double(tensor) * _double(right[name])).sum()) for name, tensor in left.items())
    lengths = norm(left) * norm(right)
    return product / lengths if lengths else float("nan")


@dataclass(frozen=True)
class Row:
    """Where one tensor lies in the flat vector: entries `start` to `end` (exclusive), `shape` as kept in `Weights`."""

    name: str
    shape: tuple[int, ...]
    start: int
    end: int
    transposed: bool


def layout(weights: Weights, input_major: bool = False) -> list[Row]:
    """The table that `flatten` and `unflatten` follow: tensors in order, row-major, one after another.

    Args:
        weights: names and shapes (the values do not matter).
        input_major: write LoRA and adapter matrices as (in, out), the order of the T5 papers (subspace).
    """
    rows, start = [], 0
    for name, tensor in weights.items():
        end = start + prod(tensor.shape)
        rows.append(Row(name, tuple(tensor.shape), start, end, input_major and name.endswith(_INPUT_MAJOR)))
        start = end
    return rows


def flatten(weights: Weights, input_major: bool = False) -> Tensor:
    """All tensors as one vector (N,) float32; see `layout`. Differentiable."""
    pieces = [
        (weights[row.name].T if row.transposed else weights[row.name]).reshape(-1).float() for row in layout(weights, input_major)
    ]
    return torch.cat(pieces) if pieces else torch.zeros(0)


def unflatten(vector: Tensor, like: Weights, input_major: bool = False) -> dict[str, Tensor]:
    """The inverse of `flatten`: names, shapes and dtypes of `like`, values of `vector` (N,). Differentiable.

    Raises:
        DeltatuneError: `vector` has another length.
    """
    rows = layout(like, input_major)
    expected = rows[-1].end if rows else 0
    if vector.shape != (expected,):
        raise DeltatuneError(f"unflatten: the vector has shape {tuple(vector.shape)} and the layout ({expected},)")
    result = {}
    # Split, not sliced: the gradient of each slice would be a vector of the whole length.
    for row, piece in zip(rows, torch.split(vector, [row.end - row.start for row in rows]), strict=True):
        shaped = piece.reshape(row.shape[::-1]).T if row.transposed else piece.reshape(row.shape)
        result[row.name] = shaped.to(like[row.name].dtype)
    return result


def _wide(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise DeltatuneError(f"arithmetic on {tensor.dtype} tensors is not defined; leave integer buffers out of a delta")
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _double(tensor: Tensor) -> Tensor:
    return _wide(tensor).double()
