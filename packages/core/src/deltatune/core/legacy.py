"""Deltas saved by the published programs: `.pt` pickles with tensor names of their own.

Tensors are read weights-only. The pickled configuration and argument objects that those files carry are replaced, by name,
with inert placeholders, so nothing in a file is ever run; a file that asks for anything else is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core.backbone import Backbone
from deltatune.core.checkpoint import Saved, base_record
from deltatune.core.delta import attach
from deltatune.core.delta.base import DeltaConfig
from deltatune.core.delta.houlsby import Houlsby
from deltatune.core.delta.lora import LoRA
from deltatune.core.delta.prefix import Prefix
from deltatune.core.delta.soft_prompt import SoftPrompt
from deltatune.core.errors import DeltatuneError

_INERT = frozenset({"T5Config", "RobertaConfig", "BertConfig", "Namespace"})
_KEYS = ("adapter", "lora", "prefix", "model")

# published name -> name here, and whether the matrix is written (in, out) there.
_RENAMES: list[tuple[str, str, bool]] = [
    (r"(encoder)\.block\.(\d+)\.layer\.0\.adapter\.adapter_(A|B)", r"\1.block.\2.layer.0.SelfAttention.o.houlsby_\3", True),
    (r"(encoder)\.block\.(\d+)\.layer\.1\.adapter\.adapter_(A|B)", r"\1.block.\2.layer.1.DenseReluDense.wo.houlsby_\3", True),
    (r"(decoder)\.block\.(\d+)\.layer\.0\.adapter\.adapter_(A|B)", r"\1.block.\2.layer.0.SelfAttention.o.houlsby_\3", True),
    (r"(decoder)\.block\.(\d+)\.layer\.1\.adapter\.adapter_(A|B)", r"\1.block.\2.layer.1.EncDecAttention.o.houlsby_\3", True),
    (r"(decoder)\.block\.(\d+)\.layer\.2\.adapter\.adapter_(A|B)", r"\1.block.\2.layer.2.DenseReluDense.wo.houlsby_\3", True),
    (r"(.+\.[qv])\.lora_(A|B)", r"\1.lora_\2.weight", True),
    (r"(encoder|decoder)\.prefix\.prefix", r"\1.prefix_embedding", False),
    (r"(encoder|decoder)\.prefix\.prefix_project\.0\.weight", r"\1.prefix_down.weight", False),
    (r"(encoder|decoder)\.prefix\.prefix_project\.2\.weight", r"\1.prefix_up.weight", False),
    (r"(.+)\.adapter\.modulelist\.(down|up)_proj\.(weight|bias)", r"\1.houlsby_\2.\3", False),
    (
        r"(.+\.output)\.(?:attention|layer)_text_task_adapters\.\w+\.adapter_(down|up)(?:\.0)?\.(weight|bias)",
        r"\1.dropout.houlsby_\2.\3",
        False,
    ),
    (r"(.+\.embeddings)\.prompt_embeddings\.weight", r"\1.word_embeddings.soft_prompt", False),
]
_FACTORS = {"houlsby_A": "houlsby_down.weight", "houlsby_B": "houlsby_up.weight"}


class Inert:
    """Stands for an object of a pickled file; holds whatever state the file gives it and does nothing."""


def read_pickle(path: Path) -> dict[str, Any]:
    """The content of a `.pt` file with every foreign object inert.

    Raises:
        DeltatuneError: not such a file, or one that would run code when unpickled.
    """
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        inert: list[Any] = [(Inert, name) for name in wanted if name.rpartition(".")[2] in _INERT]
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DeltatuneError(f"no such file: {path}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise DeltatuneError(
            f"{path}: refused, it is damaged or would run code; save its tensors as safetensors where it was made"
        ) from error
    if not isinstance(content, dict):
        raise DeltatuneError(f"{path}: holds a {type(content).__name__}, not named tensors; give a state dict")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint: under one of its known keys, or the file itself.

    Raises:
        DeltatuneError: see `read_pickle`; or no tensors by name.
    """
    return _tensors(read_pickle(path), path)


def _tensors(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    inner = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise DeltatuneError(
            f"{path}: no named tensors found; keys are {', '.join(map(str, list(content)[:5]))}; give a state dict"
        )
    return tensors


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names and shapes to those of deltatune; names without a rule (a task head) stay."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, target, input_major in _RENAMES:
            if match := re.fullmatch(pattern, name):
                renamed = match.expand(target)
                for old, new in _FACTORS.items():
                    renamed = renamed.replace(old, new)
                result[renamed] = tensor.t().contiguous() if input_major else tensor
                break
        else:
            result[name] = tensor
    return result


def infer_config(weights: Mapping[str, Tensor]) -> DeltaConfig:
    """The delta that renamed tensors belong to: kind and sizes from names and shapes, the rest as the programs had it.

    Raises:
        DeltatuneError: the names belong to no published kind.
    """
    by_end = {name.split(".", 1)[-1]: tensor for name, tensor in weights.items()}
    for name, tensor in by_end.items():
        if name.endswith("houlsby_down.weight"):
            return _houlsby(name, tensor, any(other.endswith("houlsby_down.bias") for other in weights))
        if name.endswith("lora_A.weight"):
            return LoRA(rank=tensor.shape[0], alpha=16.0, init="fan_rank")
        if name.endswith("soft_prompt"):
            return SoftPrompt(length=tensor.shape[0], position="template")
        if name.endswith("prefix_embedding"):
            width = next((t.shape[0] for n, t in by_end.items() if n.endswith("prefix_down.weight")), None)
            return Prefix(length=tensor.shape[0], width=width)
    raise DeltatuneError(
        f"no published delta has names like {next(iter(weights), '(none)')}; give a file of LoRA, adapters, a prefix or a prompt"
    )


def _houlsby(name: str, down: Tensor, bias: bool) -> Houlsby:
    width = down.shape[0]
    if not bias:
        return Houlsby(width=width, bias=False)
    if ".dropout.houlsby" in name:
        return Houlsby(width=width, placement="after_dropout")
    if ".dense.houlsby" in name:
        return Houlsby(width=width, activation="gelu_new", placement="after_projection", init_std=0.01)
    return Houlsby(width=width, activation="gelu_new", placement="after_norm", init_std=0.01)


def read_published(path: Path, backbone: Backbone) -> Saved:
    """A `.pt` file of the published programs as a delta of `backbone`.

    One file may hold several deltas (combos) and the task head. Parameters of the base are passed over where they have the
    base's own values: some programs saved the whole model beside the delta.

    Returns:
        What `checkpoint.write` stores.

    Raises:
        DeltatuneError: not such a file, no delta in it, a tuned base, or names and shapes that the model does not have.
    """
    content = read_pickle(path)
    own = backbone.model.state_dict()
    weights = {}
    for name, tensor in rename(_tensors(content, path)).items():
        if not tensor.is_floating_point():
            continue  # counters such as position_ids, which older libraries stored
        if name not in own or backbone.sites.is_head(name):
            weights[name] = tensor
        elif tensor.shape != own[name].shape or not torch.equal(tensor.to(own[name]), own[name]):
            raise DeltatuneError(
                f"{path}: also holds {name} with other values than {backbone.name} has; a tuned whole model is no delta, "
                "give the base that it was tuned from, or use it as --model"
            )
    try:
        configs = infer_configs({name: w for name, w in weights.items() if not backbone.sites.is_head(name)})
    except DeltatuneError as error:
        raise DeltatuneError(f"{path}: {error}") from error
    alpha = _argument(content.get("args"), "lora_alpha")
    if alpha is not None:
        configs = tuple(replace(c, alpha=float(alpha)) if isinstance(c, LoRA) else c for c in configs)
    return to_saved(backbone, configs, weights, {"imported": {"from": str(path)}}, path)


def infer_configs(weights: Mapping[str, Tensor]) -> tuple[DeltaConfig, ...]:
    """Every delta that renamed tensors belong to, one of each kind; see `infer_config`."""
    parts = [{n: w for n, w in weights.items() if f".{kind}" in n} for kind in ("soft_prompt", "prefix_", "lora_", "houlsby_")]
    return tuple(infer_config(part) for part in parts if part) or (infer_config(weights),)


def to_saved(
    backbone: Backbone, configs: tuple[DeltaConfig, ...], weights: Mapping[str, Tensor], about: dict[str, Any], path: Path
) -> Saved:
    """Deltas and head of another program as those of `backbone`; head tensors that `weights` lacks are the base's own.

    Raises:
        DeltatuneError: missing or extra names, other shapes, or a head of which neither file nor base holds a part.
    """
    has_head = any(backbone.sites.is_head(name) for name in weights)
    tuned = attach(backbone, *configs, head=has_head)
    try:
        lacking = [name for name in tuned.head_names if name not in weights]
        for name in lacking:
            if name in backbone.fresh:
                raise DeltatuneError(f"{path}: holds a task head without {name}, and {backbone.name} has none either; add it")
        own = tuned.weights()
        try:
            tuned.load({name: own[name] for name in lacking} | dict(weights))
        except DeltatuneError as error:
            raise DeltatuneError(f"{path}: {error}") from error
        names = tuple(tuned.head_names)
        values = {name: tensor.cpu() for name, tensor in tuned.weights().items()}
        return Saved(values, tuple(delta.config for delta in tuned.kinds()), base_record(backbone), names, about, path)
    finally:
        tuned.detach()


def _argument(args: Any, name: str) -> Any:
    """An option of the program that wrote a file, from the dictionary or the inert namespace in it."""
    values = args if isinstance(args, Mapping) else getattr(args, "__dict__", {})
    return values.get(name)
