"""Deltas saved by the published programs: `.pt` pickles with tensor names of their own.

Tensors are read weights-only. The pickled configuration and argument objects that those files carry are replaced, by name,
with inert
placeholders, so nothing in a file is ever run; a file that asks for anything else is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
        raise DeltatuneError(f"{path}: holds a {type(content).__name__}, not named tensors")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint: under one of its known keys, or the file itself."""
    content = read_pickle(path)
    inner = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise DeltatuneError(f"{path}: no named tensors found; keys are {', '.join(map(str, list(content)[:5]))}")
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
                result[renamed] = tensor.T.contiguous() if input_major else tensor
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
    raise DeltatuneError(f"no published delta has names like {next(iter(weights), '(none)')}")


def _houlsby(name: str, down: Tensor, bias: bool) -> Houlsby:
    width = down.shape[0]
    if not bias:
        return Houlsby(width=width, bias=False)
    if ".dropout.houlsby" in name:
        return Houlsby(width=width, placement="after_dropout")
    if ".dense.houlsby" in name:
        return Houlsby(width=width, activation="gelu_new", placement="after_projection", init_std=0.01)
    return Houlsby(width=width, activation="gelu_new", placement="after_norm", init_std=0.01)
