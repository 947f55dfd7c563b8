"""A trained subspace: what turns k numbers into a delta of each kind, in memory and on disk.

A subspace folder holds `subspace.safetensors` (projections, initial values, points of the source tasks) and `subspace.json`
(format, deltas with their settings, base, objective, source tasks, digest of the tensor file).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from deltatune.core.backbone import Backbone
from deltatune.core.checkpoint import config_from, open_tensors
from deltatune.core.delta import DeltaConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, replacing, write_json
from deltatune.core.weights import Weights, check_match, flatten, layout, unflatten
from deltatune.subspace.decoders import Masked, from_named, kind_of
from deltatune.subspace.objective import Objective, encode_all
from deltatune.subspace.projections import Decoder, Projection, named

FORMAT = 1
TENSORS, ABOUT = "subspace.safetensors", "subspace.json"


@dataclass(frozen=True)
class Subspace:
    """A subspace of k dimensions and the deltas that meet in it.

    Args:
        configs: name of a delta -> its settings (and those of the task head beside it); the order is that of the points.
        inits: the initial values that every solution of that name was tuned from.
        projections: encoder and decoder of each, or a decoder alone.
        points: source task -> its points (N, T, k): N solutions, T deltas.
        objective: what it was trained with; the activation of the encoders belongs to it.
        base: which model (see `deltatune.core.checkpoint.base_record`).
        about: what else is known: settings of the model, source tasks, ....
        path: where it was read.
        digest: sha256 of the tensor file that it was read from.
    """

    configs: Mapping[str, tuple[DeltaConfig, ...]]
    inits: Mapping[str, Weights]
    projections: Mapping[str, Decoder]
    points: Mapping[str, Tensor]
    objective: Objective
    base: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    digest: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The deltas, in order."""
        return tuple(self.configs)

    @property
    def k(self) -> int:
        """Number of dimensions."""
        return next(iter(self.projections.values())).k

    @cached_property
    def starts(self) -> dict[str, Tensor]:
        """The initial values as vectors (D,), where the projections are."""
        return {
            name: flatten(weights, input_major=True).to(self.projections[name].device) for name, weights in self.inits.items()
        }

    @property
    def encoders(self) -> dict[str, Projection]:
        """The projections, which all encode.

        Raises:
            DeltatuneError: one only decodes.
        """
        found = {name: own for name, own in self.projections.items() if isinstance(own, Projection)}
        if lost := [name for name in self.names if name not in found]:
            raise DeltatuneError(
                f"{self.path or 'the subspace'}: {lost[0]} has no encoder, since `hypernetwork` learns from no solutions; "
                "give a subspace made by `approximate`"
            )
        return found

    def decode(self, name: str, point: Tensor) -> dict[str, Tensor]:
        """The weights of delta `name` at `point` (k,): initial values plus V I. Differentiable.

        Raises:
            DeltatuneError: the subspace has no such delta, or another number of dimensions.
        """
        self.require(name)
        if point.shape != (self.k,):
            raise DeltatuneError(f"a point of this subspace has {self.k} numbers, got {tuple(point.shape)}")
        return self.shaped(name, self.projections[name].decode(point))

    def shaped(self, name: str, vector: Tensor) -> dict[str, Tensor]:
        """The weights of delta `name` whose difference to the initial values is `vector` (D,)."""
        return unflatten(self.starts[name] + vector, self.inits[name], input_major=True)

    def vector(self, name: str, weights: Weights) -> Tensor:
        """The difference (D,) of a tuned delta to the initial values, in the published order.

        Raises:
            DeltatuneError: other names or shapes than the subspace's.
        """
        self.require(name)
        check_match(self.inits[name], weights, f"the subspace's {name} and the solution")
        return flatten(weights, input_major=True).to(self.starts[name].device) - self.starts[name]

    def encode(self, weights: Mapping[str, Weights]) -> Tensor:
        """The points (T, k) of a solution of each delta."""
        vectors = [self.vector(name, weights[name]) for name in self.names]
        return encode_all(list(self.encoders.values()), vectors, self.objective)

    def mean_point(self) -> Tensor:
        """The mean of the points of all source tasks and deltas (k,)."""
        if not self.points:
            raise DeltatuneError("the subspace knows no source task, so it has no mean point")
        return torch.cat([points.reshape(-1, self.k) for points in self.points.values()]).mean(dim=0)

    def with_random_decoders(self, seed: int) -> Subspace:
        """The control: decoders of random directions and the same column lengths; encoders and points as they are."""
        generator = torch.Generator().manual_seed(seed)
        return replace(self, projections={name: own.random(generator) for name, own in self.projections.items()})

    def only(self, tensors: Mapping[str, Sequence[str]]) -> Subspace:
        """The control: of each delta that is named, only these tensors leave their initial values.

        Args:
            tensors: name of a delta -> names of its tensors.
        """
        kept = dict(self.projections)
        for name, wanted in tensors.items():
            self.require(name)
            rows = [torch.full((row.end - row.start,), float(row.name in wanted)) for row in layout(self.inits[name], True)]
            kept[name] = Masked(kept[name], torch.cat(rows).to(kept[name].device))
        return replace(self, projections=kept)

    def to(self, device: torch.device) -> Subspace:
        """The same with projections and points on another device."""
        moved = {name: own.to(device) for name, own in self.projections.items()}
        return replace(self, projections=moved, points={task: points.to(device) for task, points in self.points.items()})

    def require(self, name: str) -> None:
        """Raise a DeltatuneError if the subspace has no delta `name`."""
        if name not in self.configs:
            raise DeltatuneError(f"the subspace has no delta {name!r}; its deltas: {', '.join(self.configs)}")

    def require_base(self, backbone: Backbone) -> None:
        """Require the model that the subspace was trained on.

        Raises:
            DeltatuneError: another digest.
        """
        if self.base["digest"] != backbone.digest:
            raise DeltatuneError(
                f"{self.path or 'the subspace'}: trained on base {self.base['name']} (digest {str(self.base['digest'])[:12]}), "
                f"and {backbone.name} has digest {backbone.digest[:12]}; give the same base"
            )


def save(path: Path, space: Subspace) -> None:
    """Write `space` as folder `path`, as a whole or not at all.

    Raises:
        DeltatuneError: a value is not finite (nothing is written), or the folder cannot be written.
    """
    tensors = {f"projection/{name}": tensor for name, tensor in named(space.projections).items()}
    tensors |= {f"init/{name}/{key}": tensor for name, weights in space.inits.items() for key, tensor in weights.items()}
    tensors |= {f"points/{task}": points for task, points in space.points.items()}
    if wrong := next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None):
        raise DeltatuneError(f"{path}: {wrong} holds nan or infinity; approximate again with a lower learning rate")
    with replacing(path) as folder:
        folder.mkdir()
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / TENSORS, {"format": "pt"})
        write_json(
            folder / ABOUT,
            {
                "subspace_format": FORMAT,
                "k": space.k,
                "deltas": {name: [config.describe() for config in own] for name, own in space.configs.items()},
                "names": {name: list(weights) for name, weights in space.inits.items()},
                "sizes": {name: own.size for name, own in space.projections.items()},
                "decoders": {name: kind_of(own) for name, own in space.projections.items()},
                "tasks": list(space.points),
                "objective": asdict(space.objective),
                "base": dict(space.base),
                "tensors_sha256": _sha256(folder / TENSORS),
                "about": dict(space.about),
            },
        )


def read(path: Path) -> Subspace:
    """Read a subspace folder, or the one inside a run of `approximate`.

    Raises:
        DeltatuneError: nothing there, damaged, or of a newer format.
    """
    folder = path if (path / ABOUT).is_file() else path / "subspace"
    if not (folder / ABOUT).is_file():
        raise DeltatuneError(f"{path}: no subspace here (looked for {ABOUT}); give a folder made by `approximate`")
    about = read_json(folder / ABOUT)
    if about.get("subspace_format") != FORMAT:
        found = about.get("subspace_format")
        raise DeltatuneError(f"{folder / ABOUT}: subspace_format is {found!r}, and this version reads {FORMAT}; update deltatune")
    file = open_tensors(folder / TENSORS)
    digest = _sha256(folder / TENSORS)
    if digest != about["tensors_sha256"]:
        raise DeltatuneError(f"{folder / TENSORS}: the file is not the one that was saved (its digest differs); restore it")
    held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    projected = {name.removeprefix("projection/"): t for name, t in held.items() if name.startswith("projection/")}
    return Subspace(
        configs={name: tuple(config_from(item, str(folder)) for item in own) for name, own in about["deltas"].items()},
        inits={name: {key: held[f"init/{name}/{key}"] for key in keys} for name, keys in about["names"].items()},
        projections=from_named(projected, about.get("decoders") or dict.fromkeys(about["deltas"], "projection")),
        points={task: held[f"points/{task}"] for task in about["tasks"]},
        objective=Objective(**about["objective"]),
        base=about["base"],
        about=about["about"],
        path=path,
        digest=digest,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
