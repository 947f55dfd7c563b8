"""Choices that repeat on every machine and with every version of Python."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import TypeVar

_T = TypeVar("_T")


class Draw:
    """A stream of choices.

    Only `Random.random` is used, the one method whose values Python promises to keep.

    Args:
        names: what the stream is for; other names, another stream.
    """

    def __init__(self, *names: str | int) -> None:
        digest = hashlib.sha256("\0".join(map(str, names)).encode("utf-8")).digest()
        self.uniform = Random(int.from_bytes(digest, "big")).random

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def index(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        return int(self.uniform() * count)

    def pick(self, items: Sequence[_T]) -> _T:
        """One of the items."""
        return items[int(self.uniform() * len(items))]

    def other(self, items: Sequence[_T], *not_these: _T) -> _T:
        """One of the items, none of `not_these`."""
        return self.pick([item for item in items if item not in not_these])

    def distinct(self, items: Sequence[_T], count: int) -> list[_T]:
        """`count` different items, in random order."""
        left = list(items)
        return [left.pop(self.index(len(left))) for _ in range(count)]
