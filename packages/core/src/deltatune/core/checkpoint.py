"""Deltas on disk.

A delta folder holds `adapter_model.safetensors` (tensors under `base_model.model.<name>`), `adapter_config.json` (for LoRA a
configuration that PEFT reads as it is; for the others a `peft_type` of deltatune's own) and `deltatune.json`: format number,
kinds and settings, the base's digest, the head's names, the digest of the tensor file, and what the run adds (task, score,
...).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deltatune.core.adapter_config import adapter_config
from deltatune.core.backbone import Backbone
from deltatune.core.delta import DELTAS, DeltaConfig, Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, replacing, write_json
from deltatune.core.weights import Weights
from deltatune.core.world_models import delta_folder

FORMAT = 1
TENSORS, CONFIG, ABOUT = "adapter_model.safetensors", "adapter_config.json", "deltatune.json"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Saved:
    """A delta folder in memory.

    Args:
        weights: name -> tensor, float32, in the order of attachment, head included.
        configs: the deltas' settings, in that order.
        base: name, digest, model type and form of the base that it was tuned on (see `base_record`).
        head: names of the task head's tensors.
        about: what the run added: task, labels, step, score, ....
        path: where it was read.
        digest: sha256 of the tensor file that it was read from.
    """

    weights: dict[str, Tensor]
    configs: tuple[DeltaConfig, ...]
    base: dict[str, Any]
    head: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    digest: str | None = None


def save(path: Path, tuned: Tuned, about: Mapping[str, Any] | None = None, weights: Weights | None = None) -> None:
    """Write the deltas attached to a backbone as folder `path`, as a whole or not at all.

    Args:
        path: the folder; an old one is replaced.
        tuned: kinds, settings and base.
        about: added to `deltatune.json` under "about".
        weights: other values for the same names; the attached ones by default.
    """
    configs = tuple(delta.config for delta in tuned.kinds())
    chosen = dict(weights) if weights is not None else tuned.weights()
    write(path, Saved(chosen, configs, base_record(tuned.backbone), tuple(tuned.head_names), dict(about or {})))


def base_record(backbone: Backbone) -> dict[str, Any]:
    """What a delta folder says about its base."""
    which = {"name": backbone.name, "commit": backbone.commit, "digest": backbone.digest}
    return which | {"type": backbone.model.config.model_type, "form": backbone.form}


def write(path: Path, saved: Saved) -> None:
    """Write `saved` as a delta folder, as a whole or not at all.

    Raises:
        DeltatuneError: a value is not finite (nothing is written), or the folder cannot be written.
    """
    require_finite(saved.weights, str(path))
    tensors = {PREFIX + name: tensor.contiguous() for name, tensor in saved.weights.items()}
    with replacing(path) as folder:
        folder.mkdir()
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
        write_json(folder / CONFIG, adapter_config(saved))
        write_json(
            folder / ABOUT,
            {
                "deltatune_format": FORMAT,
                "deltatune": _version(),
                "deltas": [config.describe() for config in saved.configs],
                "base": saved.base,
                "names": list(saved.weights),
                "head": list(saved.head),
                "tensors_sha256": _sha256(folder / TENSORS),
                "about": saved.about,
            },
        )


def read(path: Path) -> Saved:
    """Read the delta folder that `path` addresses: itself, a run, or RUN@STEP (see `locate`).

    Raises:
        DeltatuneError: missing, truncated, tampered with, of a newer format, or not finite.
    """
    folder = locate(path)
    about = describe(folder)
    stored = read_tensors(folder / TENSORS)
    weights = {name: stored[PREFIX + name] for name in about["names"]}
    require_finite(weights, str(folder))
    head, digest = tuple(about["head"]), about["tensors_sha256"]
    return Saved(weights, configs_of(folder, about), about["base"], head, about["about"], folder, digest)


def describe(folder: Path) -> dict[str, Any]:
    """The content of `deltatune.json`, if this version reads it and the tensors beside it are those it was written with.

    Raises:
        DeltatuneError: missing, incomplete, of a newer format, or beside other tensors.
    """
    about = read_json(folder / ABOUT)
    for key in ("deltatune_format", "deltas", "base", "names", "head", "tensors_sha256", "about"):
        if not isinstance(about, dict) or key not in about:
            raise DeltatuneError(f"{folder / ABOUT}: not written by deltatune, it has no '{key}'; restore the file")
    _require_format(folder / ABOUT, about)
    if _sha256(folder / TENSORS) != about["tensors_sha256"]:
        raise DeltatuneError(f"{folder / TENSORS}: the file is not the one that was saved (its digest differs); restore it")
    held = set(open_tensors(folder / TENSORS).keys())
    if lost := [name for name in about["names"] if PREFIX + name not in held]:
        raise DeltatuneError(f"{folder / ABOUT}: names {lost[0]}, which {TENSORS} does not hold; restore the file")
    return dict(about)


def _require_format(path: Path, about: Mapping[str, Any]) -> None:
    """Require a format that this version reads: its own and all below."""
    found = about["deltatune_format"]
    if not isinstance(found, int) or found < 1:
        raise DeltatuneError(f"{path}: deltatune_format is {found!r}, which no version writes; restore the file")
    if found > FORMAT:
        writer = f"deltatune {about['deltatune']}" if "deltatune" in about else "a newer deltatune"
        raise DeltatuneError(
            f"{path}: deltatune_format is {found}, written by {writer}, and this deltatune {_version()} reads "
            f"formats up to {FORMAT}; update deltatune"
        )


def _version() -> str:
    try:
        return version("deltatune-core")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "of unknown version"


def load(path: Path, backbone: Backbone, other_base: bool = False) -> Tuned:
    """Attach the deltas saved at `path` (a delta folder, a run, or RUN@STEP); see `attach_saved`."""
    return attach_saved(read(path), backbone, other_base)


def attach_saved(saved: Saved, backbone: Backbone, other_base: bool = False) -> Tuned:
    """Attach deltas that were read; `other_base` accepts a base with another digest than they were tuned on.

    Raises:
        DeltatuneError: another base without `other_base`; names or shapes that the base does not have.
    """
    if not other_base:
        require_base(saved, backbone)
    tuned = attach(backbone, *saved.configs, head=bool(saved.head))
    try:
        tuned.load(saved.weights)
    except DeltatuneError:
        tuned.detach()
        raise
    return tuned


def require_base(saved: Saved, backbone: Backbone) -> None:
    """Require the base that the delta was tuned on.

    Raises:
        DeltatuneError: `backbone` has another digest.
    """
    if saved.base["digest"] != backbone.digest:
        raise DeltatuneError(
            f"{saved.path or 'the delta'}: tuned on base {saved.base['name']} (digest {str(saved.base['digest'])[:12]}), and "
            f"{backbone.name} has digest {backbone.digest[:12]}; give the same base, or --other_base to try it on this one"
        )


def locate(path: Path) -> Path:
    """The delta folder that a text addresses: one itself, a RUN (its `delta/`), RUN@STEP (a snapshot), or one of the world.

    Raises:
        DeltatuneError: nothing there; the steps that exist are named.
    """
    path = delta_folder(path)
    if (path / ABOUT).is_file():
        return path
    run, _, step = str(path).rpartition("@")
    if run and re.fullmatch(r"\d+", step):
        folder = Path(run) / "snapshots" / step
        if (folder / ABOUT).is_file():
            return folder
        steps = sorted(int(p.name) for p in (Path(run) / "snapshots").glob("*") if p.name.isdigit())
        raise DeltatuneError(f"{path}: no snapshot of step {step}; steps there: {', '.join(map(str, steps)) or 'none'}")
    if (path / "delta" / ABOUT).is_file():
        return path / "delta"
    if (path / CONFIG).is_file():
        raise DeltatuneError(f"{path}: a PEFT adapter, not a delta folder; run `deltatune import --adapter {path}` first")
    raise DeltatuneError(f"{path}: no delta here (looked for {ABOUT} and delta/{ABOUT}); give a run, RUN@STEP or a delta folder")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, floating ones as float32.

    Raises:
        DeltatuneError: missing, truncated, or another kind of file (a pickle is named as such and never opened).
    """
    file = open_tensors(path)
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def configs_of(folder: Path, about: Mapping[str, Any]) -> tuple[DeltaConfig, ...]:
    """The settings in `about`, the content of the `deltatune.json` in `folder`; errors as `config_from`."""
    return tuple(config_from(item, str(folder / ABOUT)) for item in about["deltas"])


def config_from(described: Mapping[str, Any], where: str) -> DeltaConfig:
    """The inverse of `DeltaConfig.describe`.

    Raises:
        DeltatuneError: a kind or a setting that this version does not know.
    """
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in described.items() if key != "kind"}
    kind = DELTAS.get(described["kind"])
    if kind is None:
        raise DeltatuneError(f"{where}: unknown delta '{described['kind']}' (known: {', '.join(DELTAS)}); update deltatune")
    try:
        return kind(**values)
    except TypeError as error:
        raise DeltatuneError(f"{where}: {described['kind']} does not take these settings ({error}); update deltatune") from error


def open_tensors(path: Path) -> Any:
    """A safetensors file, open for reading one tensor after another; errors as `read_tensors`."""
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise DeltatuneError(f"no such file: {path}") from error
    except (SafetensorError, OSError) as error:
        head = path.read_bytes()[:2] if path.is_file() else b""
        found = "a pickle, which is never opened here" if head in (b"PK", b"\x80\x02", b"\x80\x04") else f"damaged ({error})"
        raise DeltatuneError(f"{path}: not a safetensors file but {found}; save it as safetensors where it was made") from error


def require_finite(weights: Weights, where: str) -> None:
    """Raise a DeltatuneError that names the first tensor with nan or infinity, if there is one."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise DeltatuneError(f"{where}: {name} holds nan or infinity; tune again with a lower learning rate")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DeltatuneError(f"cannot read {path}: {error.strerror}; restore the file, or tune again") from error
