"""Loading a pre-trained model: from a folder, a step of a series, or the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from deltatune.core.backbone import Backbone, BackboneConfig, Device, Form, wrap
from deltatune.core.errors import DeltatuneError
from deltatune.core.sites import read_sites, sites_of


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
    model, fresh = _weights(config.model, _auto_class(form), source, {**origin, "config": settings})
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


def _weights(name: str, kind: Any, source: str, options: dict[str, Any]) -> tuple[Any, set[str]]:
    """The model in float32, and the parameters that the checkpoint did not hold, or held in another shape."""
    loading = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet():
            model, report = kind.from_pretrained(source, **options, **loading)
    except UnpicklingError as error:
        raise DeltatuneError(
            f"model {name}: pytorch_model.bin is damaged or holds more than tensors, which could run code; use model.safetensors"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        if "Unrecognized configuration class" in str(error):
            which = options["config"].model_type
            raise DeltatuneError(f"model {name}: a {which} model has no such form; choose another --form or model") from error
        raise DeltatuneError(f"model {name}: cannot load its weights ({_first_line(error)})") from error
    return model, {*report["missing_keys"], *(key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"])}


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
