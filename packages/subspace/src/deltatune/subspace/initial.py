"""The initial values that all solutions of a subspace start from: one delta folder for each delta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deltatune.core import checkpoint
from deltatune.core.backbone import Backbone, BackboneConfig
from deltatune.core.checkpoint import Saved
from deltatune.core.delta import DeltaConfig, Head, Houlsby, LoRA, Prefix, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.loading import load_backbone
from deltatune.core.reuse import open_run
from deltatune.core.run import plain

# The published three, of one size on T5-base: 1,105,920 values each.
PUBLISHED: tuple[DeltaConfig, ...] = (
    Houlsby(width=12, bias=False),
    LoRA(rank=10, alpha=16.0, init="fan_rank"),
    Prefix(length=120, width=24),
)


@dataclass(frozen=True)
class Initial:
    """Initial values in memory.

    Args:
        path: their folder.
        saved: name of a delta -> its folder's content, in order.
    """

    path: Path
    saved: dict[str, Saved]

    @property
    def configs(self) -> dict[str, tuple[DeltaConfig, ...]]:
        """Name -> the settings of the delta, and of the head beside it."""
        return {name: saved.configs for name, saved in self.saved.items()}

    def of(self, name: str) -> tuple[DeltaConfig, ...]:
        """The settings of one delta without the head, as `tune` takes them."""
        return tuple(config for config in self.saved[name].configs if not isinstance(config, Head)) or self.saved[name].configs

    @property
    def num_labels(self) -> int | None:
        """Rows of the task head; None without one."""
        return open_run(self.path / next(iter(self.saved))).num_labels

    def backbone_settings(self) -> dict[str, Any]:
        """Model, form and so on, as they were given."""
        first = next(iter(self.saved.values()))
        return dict(first.about["settings"]["backbone"])

    def digests(self) -> dict[str, str]:
        """Name -> digest of the tensors."""
        return {name: str(saved.digest) for name, saved in self.saved.items()}

    def backbone(self, model: str | None = None, device: Any = "auto", precision: Any = None) -> Backbone:
        """The model that the values are for, or the same at another place.

        Raises:
            DeltatuneError: another model.
        """
        name, saved = next(iter(self.saved.items()))
        backbone = open_run(self.path / name).backbone(model, device, precision)
        checkpoint.require_base(saved, backbone)
        return backbone


def names_of(configs: Sequence[DeltaConfig]) -> list[str]:
    """The name of each delta: its kind in small letters, with a number where a kind comes again."""
    kinds = [type(config).__name__.lower() for config in configs]
    return [kind if kinds.index(kind) == i else f"{kind}-{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)]


def draw_initial(
    folder: Path, backbone: BackboneConfig, configs: Sequence[DeltaConfig], seed: int, num_labels: int
) -> dict[str, int]:
    """Draw the initial values of every delta from `seed`, with the same task head where the form has one, and write them.

    Returns:
        The number of values of each.

    Raises:
        DeltatuneError: a setting does not fit the model, or no delta.
    """
    if not configs:
        raise DeltatuneError(
            "no delta given; name at least one as --deltas+ LoRA, or leave the option out for the published three"
        )
    loaded, sizes = load_backbone(backbone, num_labels=num_labels), {}
    # The device is where each command computes, not a property of the values.
    settings = {key: value for key, value in plain(asdict(backbone)).items() if key != "device"}
    for name, config in zip(names_of(configs), configs, strict=True):
        tuned = attach(loaded, config, generator=torch.Generator().manual_seed(seed))
        checkpoint.save(folder / name, tuned, {"settings": {"backbone": settings}, "init_seed": seed})
        sizes[name] = sum(tensor.numel() for tensor in tuned.parameters_by_name().values())
        tuned.detach()
    return sizes


def read_initial(path: Path, only: Sequence[str] | None = None) -> Initial:
    """The initial values in a folder made by `make-init`.

    Raises:
        DeltatuneError: not such a folder, damaged, or a delta that it does not hold.
    """
    if not (path / "run.json").is_file():
        raise DeltatuneError(f"{path}: no initial values here; make them with `make-init --out_dir {path}`")
    facts = read_json(path / "run.json")
    names = list(facts.get("sizes", {}))
    if not names:
        raise DeltatuneError(f"{path}: not a finished folder of `make-init`; give one")
    if wrong := [name for name in only or () if name not in names]:
        raise DeltatuneError(f"{path}: no delta {wrong[0]!r}; its deltas: {', '.join(names)}")
    return Initial(path, {name: checkpoint.read(path / name) for name in names if only is None or name in only})
