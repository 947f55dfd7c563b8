"""Many runs of one process, one after another: base model and encoded examples are taken over where two runs need the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatune.core.backbone import Backbone, BackboneConfig
    from deltatune.core.data import Example

Load = Callable[["BackboneConfig", int], "Backbone"]
MOST = 100_000  # examples that are remembered for one way to encode them


@dataclass
class _Shelf:
    """What the runs before left: one model that no run has now, and encoded examples by what decides the encoding."""

    model: tuple[tuple[BackboneConfig, int], Backbone] | None = None
    encoded: dict[tuple[str, int], tuple[object, dict[Example, dict[str, Any]]]] = field(default_factory=dict)


_shelf: _Shelf | None = None


@contextmanager
def keeping() -> Iterator[None]:
    """Within, each run of this process takes over what the run before left. Files of models are not looked at again."""
    global _shelf
    before, _shelf = _shelf, _shelf or _Shelf()
    try:
        yield
    finally:
        _shelf = before


def keep_always() -> None:
    """`keeping` for the rest of this process: of one that does nothing but run after run."""
    global _shelf
    _shelf = _shelf or _Shelf()


@contextmanager
def lent() -> Iterator[Load]:
    """What loads a model for one run: the one of the run before, where that was the same and is not in use.

    A run that ends well has taken its deltas off the model; one that fails may not have, and its model is dropped.
    """
    from deltatune.core.loading import load_backbone

    mine: list[tuple[tuple[BackboneConfig, int], Backbone]] = []
    shelf = _shelf

    def load(config: BackboneConfig, num_labels: int) -> Backbone:
        found, key = None, (config, num_labels)
        if shelf is not None:
            found, shelf.model = shelf.model, None
        if found is None or found[0] != key:
            found = key, load_backbone(config, num_labels=num_labels)
        mine.append(found)
        return found[1]

    yield load
    if shelf is not None and mine:
        shelf.model = mine[-1]


def remembered(tokenizer: object, settings: str) -> dict[Example, dict[str, Any]] | None:
    """Encoded examples of runs before, to be added to; None where nothing is to be remembered.

    Args:
        tokenizer: the one object; it is kept as long as what it encoded.
        settings: equal for equal ways to encode with it.
    """
    if _shelf is None:
        return None
    _, known = _shelf.encoded.setdefault((settings, id(tokenizer)), (tokenizer, {}))
    if len(known) > MOST:
        known.clear()
    return known
