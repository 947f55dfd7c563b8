"""Groups of tensors by their place in the model, and how far two sets of weights are apart in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from deltatune.core.sites import Sites
from deltatune.core.weights import Weights, cosine, distance, norm

By = Literal["all", "block", "part", "tensor"]


@dataclass(frozen=True)
class Gap:
    """How far two sets of weights are apart within one group.

    Args:
        group: its name.
        tensors: number of tensors.
        scalars: number of values n.
        l2: Euclidean distance.
        cosine: of the angle between both, as vectors of n values (a similarity, not a distance); nan if one is zero.
        left: Euclidean length of the one.
        right: of the other.
    """

    group: str
    tensors: int
    scalars: int
    l2: float
    cosine: float
    left: float
    right: float

    @property
    def rms(self) -> float:
        """L2 / sqrt(n), the root mean square of the differences."""
        return self.l2 / sqrt(self.scalars)


def gaps(left: Weights, right: Weights, group: Callable[[str], str]) -> list[Gap]:
    """The gap of each group, in order of first appearance; sums in float64.

    Raises:
        DeltatuneError: other names or shapes, or a tensor that is not floating.
    """
    found = []
    for key, l2 in distance(left, right, group).items():
        ends = [{name: end[name] for name in left if group(name) == key} for end in (left, right)]
        scalars = sum(tensor.numel() for tensor in ends[0].values())
        found.append(Gap(key, len(ends[0]), scalars, l2, cosine(*ends), norm(ends[0]), norm(ends[1])))
    return found


def grouping(by: By, sites: Sites | None = None) -> Callable[[str], str]:
    """The function that names a tensor's group: `all`, the block, the part of the model, or the tensor itself."""
    choices: dict[By, Callable[[str], str]] = {
        "all": lambda name: "all",
        "block": block_of,
        "part": lambda name: part_of(name, sites),
        "tensor": str,
    }
    return choices[by]


def block_of(name: str) -> str:
    """The block that a tensor belongs to: its name up to the block's number, or what stands before its last part."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else ".".join(parts[:-1])


def part_of(name: str, sites: Sites | None = None) -> str:
    """The kind of part: head, embeddings, norms, attention or feed-forward; of a delta, the part that it serves."""
    lowered = name.lower()
    if sites is not None and sites.is_head(name):
        return "head"
    if "embed" in lowered or lowered.startswith("shared."):
        return "embeddings"
    if not any(part.isdigit() for part in name.split(".")):
        return "head" if "classifier" in lowered or "pooler" in lowered or "score" in lowered else "other"
    if any(word in lowered for word in ("layernorm", "layer_norm", "norm.")) and "houlsby" not in lowered:
        return "norms"
    return "attention" if "attention" in lowered or "attn" in lowered else "feed-forward"
