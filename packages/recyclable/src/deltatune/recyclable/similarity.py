"""Functional similarity: whether the attention heads of two models look at the same places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError

_SUMS = 5  # of x, y, x^2, y^2, x y


class HeadCorrelation:
    """Pearson correlation of two models' attention matrices, head by head, summed up batch by batch in float64.

    All pairs (query, key) of real tokens of all examples are the observations; padding takes no part.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, left: Sequence[Tensor], right: Sequence[Tensor], mask: Tensor) -> None:
        """Take in a batch.

        Args:
            left: attention probabilities of each layer, (B, H, T, T).
            right: of the other model, same sizes.
            mask: (B, T), 1 at real tokens.

        Raises:
            DeltatuneError: the models have other numbers of layers or heads.
        """
        shapes = [tuple((layer.shape[1], *layer.shape[2:]) for layer in side) for side in (left, right)]
        if shapes[0] != shapes[1]:
            sizes = " and ".join(f"{len(side)} layers of {side[0][0] if side else 0} heads" for side in shapes)
            raise DeltatuneError(f"heads are compared one by one, and the models have {sizes}; take models of one architecture")
        valid = (mask[:, :, None] * mask[:, None, :]).bool()
        sums = torch.stack([self._layer(a, b, valid) for a, b in zip(left, right, strict=True)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += int(valid.sum())

    @staticmethod
    def _layer(left: Tensor, right: Tensor, valid: Tensor) -> Tensor:
        """(H, 5) sums over the valid pairs of one layer."""
        x, y = (side.double().movedim(1, -1)[valid].T for side in (left, right))
        return torch.stack([x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], dim=1).cpu()

    def result(self) -> Tensor:
        """The correlation of each head, (L, H) float64; nan where one model's head is constant.

        Raises:
            DeltatuneError: fewer than two observations.
        """
        if self._sums is None or self._count < 2:
            raise DeltatuneError("no text to compare attention on; give examples of at least two tokens")
        x, y, xx, yy, xy = (self._sums[..., i] / self._count for i in range(_SUMS))
        return (xy - x * y) / ((xx - x * x).clamp(min=0) * (yy - y * y).clamp(min=0)).sqrt()
