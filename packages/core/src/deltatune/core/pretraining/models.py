"""Models that have learned nothing yet, from sizes or a configuration and a seed, and writing models."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from deltatune.core.backbone import Backbone, BackboneConfig, wrap
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import replacing
from deltatune.core.fresh import fresh_model
from deltatune.core.loading import load_backbone, pick_device, quiet, resolve
from deltatune.core.sites import read_sites, sites_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Precision = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Sizes:
    """Of a model.

    Args:
        layers: of the encoder, and of the decoder of a text-to-text model.
        width: of the hidden states.
        heads: of attention, each width / heads wide.
        feed_forward: width inside the feed-forward blocks.
        positions: longest input of an encoder in tokens; a text-to-text model has relative positions.
    """

    layers: int = 3
    width: int = 96
    heads: int = 3
    feed_forward: int = 384
    positions: int = 128

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.heads, self.feed_forward, self.positions) < 1:
            raise DeltatuneError(f"sizes of a model must be at least 1, got {self}")
        if self.width % self.heads:
            raise DeltatuneError(f"width {self.width} is no multiple of heads {self.heads}; change one")


def build_model(form: Literal["prompt", "text"], sizes: Sizes, tokenizer: PreTrainedTokenizerBase, seed: int) -> Backbone:
    """A fresh model without dropout: RoBERTa with a vocabulary head, or a gated, untied T5.

    Initial values are those of the transformers library, drawn from `seed` alone, but for T5's output layer: of a weight of its
    own, normal with standard deviation width^-0.5, and the decoder's output is not rescaled.

    Args:
        form: prompt for RoBERTa, text for T5.
        sizes: of the model.
        tokenizer: with beginning, end, padding and mask (RoBERTa), or end, padding and `<extra_id_0>` ... (T5).
        seed: of the initial values; torch's global generators are left as they are.
    """
    from transformers import RobertaConfig, T5Config

    pad = tokenizer.pad_token_id
    if pad is None or tokenizer.eos_token_id is None:
        raise DeltatuneError("the tokenizer has no padding or no end token; a model needs both")
    special = {"pad_token_id": pad, "eos_token_id": tokenizer.eos_token_id, "vocab_size": len(tokenizer)}
    config: Any
    if form == "prompt":
        config = RobertaConfig(
            **special,
            bos_token_id=tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id,
            hidden_size=sizes.width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.feed_forward,
            max_position_embeddings=sizes.positions + pad + 1,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    else:
        config = T5Config(
            **special,
            decoder_start_token_id=pad,
            d_model=sizes.width,
            d_kv=sizes.width // sizes.heads,
            d_ff=sizes.feed_forward,
            num_layers=sizes.layers,
            num_decoder_layers=sizes.layers,
            num_heads=sizes.heads,
            feed_forward_proj="gated-gelu",
            relative_attention_max_distance=64,
            dropout_rate=0.0,
            tie_word_embeddings=False,
        )
    return wrap(fresh_model(form, config, seed), tokenizer, form=form)


def objective_kind(config: BackboneConfig) -> Literal["mlm", "span"]:
    """The objective that suits a model: span corruption for encoder-decoders, masked language modelling for all others.

    Raises:
        DeltatuneError: no configuration can be read there.
    """
    return "span" if _settings(config).is_encoder_decoder else "mlm"


def fresh_backbone(config: BackboneConfig, seed: int) -> Backbone:
    """The model that `config.json` in a folder (or on the hub) describes, with the tokenizer there and new weights.

    Raises:
        DeltatuneError: no such folder, no tokenizer, or an architecture that cannot be pre-trained here.
    """
    from transformers import AutoTokenizer

    settings = _settings(config)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(resolve(config.model), revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DeltatuneError(f"model {config.model}: no tokenizer there that can be read; save one beside config.json") from error
    form: Literal["prompt", "text"] = "text" if settings.is_encoder_decoder else "prompt"
    try:
        model = fresh_model(form, settings, seed)
    except ValueError as error:
        raise DeltatuneError(f"model {config.model}: a {settings.model_type} model cannot be pre-trained here") from error
    sites = read_sites(config.sites) if isinstance(config.sites, Path) else config.sites or sites_of(settings)
    return wrap(model.to(pick_device(config.device)), tokenizer, sites=sites, form=form, name=config.model)


def with_fresh_head(config: BackboneConfig, seed: int) -> Backbone:
    """An encoder that was saved without its head for masked words, with a new one; its output matrix is the word table.

    Args:
        config: which model.
        seed: of the head's values.

    Raises:
        DeltatuneError: the checkpoint lacks more than that head, or is not an encoder.
    """
    backbone = fresh_backbone(replace(config, form="prompt"), seed)
    if backbone.form != "prompt":
        raise DeltatuneError(f"model {config.model}: only an encoder has a head for masked words; leave --fresh_head out")
    given = load_backbone(replace(config, form="head", device="cpu"), num_labels=1).model.state_dict()
    prefix = f"{backbone.model.base_model_prefix}."
    own = {name: tensor for name, tensor in backbone.model.state_dict().items() if name.startswith(prefix)}
    if missing := sorted(own.keys() - given.keys()):
        raise DeltatuneError(f"model {config.model}: the checkpoint does not hold {missing[0]} ({len(missing)} such tensors)")
    for name, tensor in own.items():
        tensor.copy_(given[name])
    return backbone


def _settings(config: BackboneConfig) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(resolve(config.model), revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DeltatuneError(f"model {config.model}: no config.json there that can be read; give a folder or hub name") from error


def save_model(backbone: Backbone, folder: Path, precision: Precision = "fp32") -> None:
    """Write model and tokenizer into `folder` as transformers reads them; files of the same names there are replaced.

    Raises:
        DeltatuneError: a weight does not fit into half precision.
    """
    model = backbone.model
    if precision == "fp16":
        model = copy.deepcopy(model).half()
        for name, tensor in model.named_parameters():
            if not torch.isfinite(tensor).all():
                raise DeltatuneError(f"{name} holds numbers above 65504, which fp16 does not have; save fp32")
    staged = folder / "model"
    with replacing(staged) as scratch, quiet():
        model.save_pretrained(scratch)
        if backbone.tokenizer is not None:
            backbone.tokenizer.save_pretrained(scratch)
    # config.json last: a folder that has it is whole.
    for file in sorted(staged.iterdir(), key=lambda path: path.name == "config.json"):
        file.replace(folder / file.name)
    staged.rmdir()
