"""Loading a pre-trained model with its tokenizer, its sites and a digest that identifies it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from deltatune.core.errors import DeltatuneError
from deltatune.core.sites import Sites, read_sites, sites_of

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
        sites: YAML record of an architecture that deltatune does not know.
    """

    model: str
    revision: str | None = None
    form: Literal["auto", "head", "prompt", "text"] = "auto"
    device: Device = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    sites: Path | None = None


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
    """sha256 over the (name, shape, float32 bytes) of `base_tensors`, sorted by name, as a hexadecimal string."""
    total = hashlib.sha256()
    for name, tensor in sorted(base_tensors(model, sites)):
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.to("cpu", torch.float32).contiguous().numpy().tobytes())
    return total.hexdigest()


def load_backbone(config: BackboneConfig, num_labels: int | None = None) -> Backbone:
    """Load model and tokenizer.

    Args:
        config: which and how.
        num_labels: width of the classification head (1 for a regression); needed by the form "head".

    Raises:
        DeltatuneError: no such model, unknown architecture, unreadable or mismatched weights.
    """
    from transformers import AutoConfig, AutoTokenizer

    source = _resolve(config.model)
    # Said outright: left open, transformers asks at the terminal whether to run code that came with the model.
    origin: dict[str, Any] = {"revision": config.revision, "trust_remote_code": False}
    try:
        with quiet():
            settings = AutoConfig.from_pretrained(source, **origin)
            tokenizer = AutoTokenizer.from_pretrained(source, **origin)
    except (OSError, ValueError, KeyError) as error:
        raise _not_found(config.model, error) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise DeltatuneError(f"model {config.model}: no tokenizer files there; save its tokenizer in the same folder")
    form: Form = config.form if config.form != "auto" else ("text" if settings.is_encoder_decoder else "head")
    sites = read_sites(config.sites) if config.sites else sites_of(settings)
    if form == "head" and num_labels is not None:
        settings.num_labels = num_labels
    if form == "head" and settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    try:
        with quiet():
            model, report = _auto_class(form).from_pretrained(
                source,
                config=settings,
                **origin,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except UnpicklingError as error:
        raise DeltatuneError(
            f"model {config.model}: pytorch_model.bin is damaged or holds more than tensors, which could run code; "
            "use model.safetensors"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise DeltatuneError(f"model {config.model}: cannot load its weights ({_first_line(error)})") from error
    fresh = {*report["missing_keys"], *(key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"])}
    lost = sorted(name for name in fresh if not sites.is_head(name))
    if lost:
        raise DeltatuneError(
            f"model {config.model}: the checkpoint does not hold {lost[0]} ({len(lost)} such tensors) as form '{form}' needs it; "
            "choose another --form or a complete checkpoint"
        )
    return wrap(
        model.to(pick_device(config.device)), tokenizer, sites=sites, form=form, name=config.model, fresh=frozenset(fresh),
        commit=getattr(settings, "_commit_hash", None), precision=config.precision,
    )  # fmt: skip


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


def pick_device(device: Device) -> torch.device:
    """The torch device for `device`; "auto" prefers cuda, then mps, then cpu.

    Raises:
        DeltatuneError: the device asked for is not there.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, found in here.items() if found))
    if not here[device]:
        raise DeltatuneError(f"--device {device}: none here; use --device auto or cpu")
    return torch.device(device)


@contextmanager
def quiet() -> Iterator[None]:
    """No report, no bar and no retries on the terminal while a model is read: what is new or missing is handled here."""
    from logging import ERROR

    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    level, hub_level, bar = logging.get_verbosity(), hub.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub.set_verbosity(ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub.set_verbosity(hub_level)
        if bar:
            logging.enable_progress_bar()


def _auto_class(form: Form) -> Any:
    import transformers

    return {
        "head": transformers.AutoModelForSequenceClassification,
        "prompt": transformers.AutoModelForMaskedLM,
        "text": transformers.AutoModelForSeq2SeqLM,
    }[form]


def _resolve(name: str) -> str:
    """FOLDER@STEP to the folder of that step; everything else unchanged."""
    folder, step = (name, "") if Path(name).exists() else name.rpartition("@")[::2]
    root = Path(folder or name)
    if root.is_file():
        raise DeltatuneError(f"model {name} is a file; give the folder that holds it")
    if not root.is_dir():
        return name
    found = ((re.fullmatch(r"ckpt_([0-9]+)", path.name), path) for path in root.glob("ckpt_*"))
    steps = {int(match[1]): path for match, path in sorted(found, key=str) if match}
    if step:
        if not re.fullmatch("[0-9]+", step) or int(step) not in steps:
            there = ", ".join(map(str, sorted(steps))) or "none"
            raise DeltatuneError(f"model {name}: no ckpt_{step} in {root}; steps there: {there}")
        return str(steps[int(step)])
    if steps and not (root / "config.json").exists():
        choices = ", ".join(f"{folder}@{step}" for step in sorted(steps)[:8])
        raise DeltatuneError(f"model {name} is a series; choose a step: {choices}")
    if not (root / "config.json").exists():
        raise DeltatuneError(f"model {name}: the folder has no config.json; give a folder written by save_pretrained")
    return name


def _not_found(name: str, error: Exception) -> DeltatuneError:
    if Path(name).exists():
        return DeltatuneError(f"model {name}: {_first_line(error)}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        return DeltatuneError(f"model {name}: no such folder; give a folder written by save_pretrained or a hub name")
    from huggingface_hub import constants

    offline = " (offline mode is on)" if constants.is_offline_mode() else ""
    return DeltatuneError(
        f"model {name}: no such folder, and not in the cache {constants.HF_HUB_CACHE}{offline}; "
        f"fetch it with `hf download {name}` where there is a network, or give a folder"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
