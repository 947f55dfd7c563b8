"""Loading a pre-trained model with its tokenizer, its sites and a digest that identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from deltatune.core.errors import DeltatuneError
from deltatune.core.sites import Sites, sites_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Form = Literal["head", "prompt", "text"]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class BackboneConfig:
    """Which pre-trained model, and how it is used.

    Args:
        model: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`; a folder of `ckpt_STEP` folders, as
            FOLDER@STEP; or a hub name.
        revision: branch, tag or commit of a hub name.
        form: head (classification head), prompt (a masked-language model answers at the mask), text (text-to-text), or auto
            (text for encoder-decoders, head for all others).
        device: where to compute; auto takes a GPU if there is one.
        precision: fp32, or bf16 for the matrix products of a frozen base (kept in fp32 as stored).
        sites: YAML record of an architecture that deltatune does not know, or the record itself.
    """

    model: str
    revision: str | None = None
    form: Literal["auto", "head", "prompt", "text"] = "auto"
    device: Device = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    sites: Path | Sites | None = None


@dataclass
class Backbone:
    """A frozen model in evaluation mode with what a delta needs to know about it.

    Args:
        model: the transformers model.
        sites: where its parts are.
        tokenizer: its tokenizer; None if only tensors are computed with.
        form: how an example is asked (see `BackboneConfig`).
        name: what the user called it.
        commit: the resolved commit of a hub model.
        fresh: parameters that the checkpoint did not hold, such as a new head.
        precision: of the frozen matrix products.
    """

    model: PreTrainedModel
    sites: Sites
    tokenizer: PreTrainedTokenizerBase | None = None
    form: Form = "head"
    name: str = ""
    commit: str | None = None
    fresh: frozenset[str] = field(default_factory=frozenset)
    precision: Literal["fp32", "bf16"] = "fp32"

    @cached_property
    def digest(self) -> str:
        """Identity of the pre-trained weights; equal for every head on top of them (see `base_digest`)."""
        return base_digest(self.model, self.sites)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def position_ids(self, ids: Tensor, offset: int = 0) -> Tensor:
        """The positions (B, T) that the model gives tokens `ids` (B, T) by itself, raised by `offset`."""
        if "roberta" in self.model.config.model_type:
            pad = self.model.config.pad_token_id
            real = ids != pad
            positions: Tensor = (real.cumsum(dim=1) + offset) * real + pad
            return positions
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids) + offset

    @property
    def mask_id(self) -> int:
        """Token id of the mask.

        Raises:
            DeltatuneError: no tokenizer, or one without a mask.
        """
        found = getattr(self.tokenizer, "mask_token_id", None)
        if found is None:
            raise DeltatuneError(f"model {self.name}: its tokenizer has no mask token; the form prompt needs one")
        return int(found)

    @property
    def max_length(self) -> int | None:
        """Longest input in tokens, where the model has absolute positions; None where it has no such limit."""
        config = self.model.config
        limit = getattr(config, "max_position_embeddings", None)
        # RoBERTa counts positions from padding_idx + 1 and so loses the first rows of its table.
        return limit - config.pad_token_id - 1 if limit and "roberta" in config.model_type else limit


def base_tensors(model: PreTrainedModel, sites: Sites) -> Iterator[tuple[str, Tensor]]:
    """The floating parameters of the pre-trained part: aliases once, no buffers, no head, names relative to the base model."""
    prefix = next((name + "." for name, module in model.named_modules() if module is model.base_model and name), "")
    for name, tensor in model.base_model.named_parameters():
        if tensor.is_floating_point() and not sites.is_head(prefix + name):
            yield name, tensor.detach()


def base_digest(model: PreTrainedModel, sites: Sites) -> str:
    """`tensors_digest` of `base_tensors`."""
    return tensors_digest(base_tensors(model, sites))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over the (name, shape, float32 bytes) of named tensors, sorted by name, as a hexadecimal string."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors, key=itemgetter(0)):
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return total.hexdigest()


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, **known: Any) -> Backbone:
    """A `Backbone` around a model that is already in memory: frozen, in evaluation mode.

    Args:
        model: any transformers model with a record in `SITES`, or another one with `sites=...` given.
        tokenizer: its tokenizer.
        known: further fields of `Backbone`.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.device.type != "meta" and not torch.isfinite(parameter).all():
            raise DeltatuneError(f"model {known.get('name', '')}: {name} holds nan or infinity; the checkpoint is damaged")
    model.eval().requires_grad_(False)
    kind: Form = "text" if model.config.is_encoder_decoder else "head"
    settings = {"sites": known.pop("sites", None) or sites_of(model.config), "form": known.pop("form", kind)}
    return Backbone(model, tokenizer=tokenizer, **settings, **known)


def untie(model: PreTrainedModel) -> PreTrainedModel:
    """Give `lm_head` a weight of its own, as T5 v1.1 has it; returns the same model.

    transformers 5 ties the output layer of every model built from a configuration, whatever `tie_word_embeddings` says, and
    then rescales the decoder's output. Call this before loading or training weights of the untied, unscaled kind.
    """
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    model.config.tie_word_embeddings = False
    if hasattr(model.config, "scale_decoder_outputs"):
        model.config.scale_decoder_outputs = False
    return model
