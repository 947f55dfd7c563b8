"""Several views of one model: module trees of their own that share every tensor.

Deltas that are attached to one model act together. Here each acts alone on the same frozen model, so each is attached to a view,
and the model is in memory once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from deltatune.core.backbone import Backbone
from deltatune.core.delta import DeltaConfig, Tuned, attach


def views(backbone: Backbone, count: int) -> list[Backbone]:
    """`count` views of a backbone without deltas; no tensor is copied."""
    model = backbone.model
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return [replace(backbone, model=copy.deepcopy(model, dict(shared))) for _ in range(count)]


def attach_each(backbone: Backbone, configs: Mapping[str, Sequence[DeltaConfig]]) -> dict[str, Tuned]:
    """Name -> the model with the deltas of that name alone. Their values are yet to be loaded."""
    seen = views(backbone, len(configs))
    return {name: attach(view, *own) for view, (name, own) in zip(seen, configs.items(), strict=True)}
