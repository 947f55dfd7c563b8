"""Loading a pre-trained model: from a folder, a step of a series, or the hub."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError

from deltatune.core import world_models
from deltatune.core.backbone import Backbone, BackboneConfig, Device, Form, wrap
from deltatune.core.errors import DeltatuneError
from deltatune.core.fresh import fresh_model
from deltatune.core.precision import hint_at_slow_bf16
from deltatune.core.processes import local_rank
from deltatune.core.sites import Sites, read_sites, sites_of

_WITHOUT_HEAD = "; `deltatune pretrain --fresh_head true` gives an encoder a new head for masked words"


def load_backbone(config: BackboneConfig, num_labels: int | None = None) -> Backbone:
    """Load model and tokenizer.

    Args:
        config: which and how.
        num_labels: width of the classification head (1 for a regression); needed by the form "head".

    Raises:
        DeltatuneError: no such model, unknown architecture, unreadable or mismatched weights.
    """
    from transformers import AutoConfig, AutoTokenizer

    source = resolve(config.model)
    # Said outright: left open, transformers asks at the terminal whether to run code that came with the model.
    origin: dict[str, Any] = {"revision": config.revision, "trust_remote_code": False}
    try:
        with quiet():
            settings = AutoConfig.from_pretrained(source, **origin)
            tokenizer = AutoTokenizer.from_pretrained(source, **origin)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(config.model, config.revision, error) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise DeltatuneError(f"model {config.model}: no tokenizer files there; save its tokenizer in the same folder")
    form: Form = config.form if config.form != "auto" else ("text" if settings.is_encoder_decoder else "head")
    sites = read_sites(config.sites) if isinstance(config.sites, Path) else config.sites or _known_sites(config.model, settings)
    if form == "head" and num_labels is not None:
        settings.num_labels = num_labels
    if form == "head" and settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if _untrained(config.model):
        model = fresh_model(form, settings, world_models.seed_of(config.model.partition("@")[0]))
        fresh: dict[str, Shapes | None] = dict.fromkeys(name for name, _ in model.named_parameters() if sites.is_head(name))
    else:
        model, fresh = _weights(config.model, _auto_class(form), source, {**origin, "config": settings})
    lost = sorted(name for name in fresh if not sites.is_head(name))
    if lost and (shapes := fresh[lost[0]]):
        raise DeltatuneError(
            f"model {config.model}: {lost[0]} is {shapes[0]} in the checkpoint and {shapes[1]} by its config.json "
            f"({len(lost)} such tensors); restore the config.json that belongs to the checkpoint"
        )
    if lost:
        raise DeltatuneError(
            f"model {config.model}: the checkpoint does not hold {lost[0]} ({len(lost)} such tensors) as form '{form}' needs it; "
            f"choose another --form or a complete checkpoint{_WITHOUT_HEAD if form == 'prompt' else ''}"
        )
    device = pick_device(config.device)
    if config.precision == "bf16":
        hint_at_slow_bf16(device.type)
    return wrap(
        model.to(device), tokenizer, sites=sites, form=form, name=config.model, fresh=frozenset(fresh),
        commit=_commit(config.model, config.revision), precision=config.precision,
    )  # fmt: skip


def _known_sites(name: str, settings: Any) -> Sites:
    try:
        return sites_of(settings)
    except DeltatuneError as error:
        raise DeltatuneError(f"model {name}: {str(error).removeprefix('model: ')}") from error


Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def _weights(name: str, kind: Any, source: str, options: dict[str, Any]) -> tuple[Any, dict[str, Shapes | None]]:
    """The model in float32, and the parameters that the checkpoint did not hold, or held in another shape: there and here."""
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
        raise DeltatuneError(
            f"model {name}: cannot load its weights ({_first_line(error)}); restore the file, or fetch the model again"
        ) from error
    fresh: dict[str, Shapes | None] = dict.fromkeys(report["missing_keys"])
    return model, fresh | {key: (tuple(there), tuple(here)) for key, there, here in report["mismatched_keys"]}


def pick_device(device: Device) -> torch.device:
    """The torch device for `device`; "auto" prefers cuda, then mps, then cpu. Processes of a launch have a GPU each.

    Raises:
        DeltatuneError: the device asked for is not there.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen: str = device
    if device == "auto" and parse_flag_from_env("ACCELERATE_USE_CPU"):  # `accelerate launch --cpu`
        chosen = "cpu"
    elif device == "auto":
        chosen = next(name for name, found in here.items() if found)
    elif not here[device]:
        raise DeltatuneError(f"--device {device}: none here; use --device auto or cpu")
    if chosen == "cuda" and (number := local_rank()) is not None:
        return torch.device("cuda", number)
    return torch.device(chosen)


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


def resolve(name: str) -> str:
    """FOLDER@STEP to the folder of that step, world/NAME to its folder; everything else unchanged.

    Of world/NAME@0, which is made anew from its seed, the folder is that of world/NAME.
    """
    folder, step = name.rsplit("@", 1) if "@" in name and not Path(name).exists() else (name, "")
    if name.startswith(world_models.PREFIX) and not Path(name).exists():
        root = world_models.folder(folder)
        if not step or _untrained(name):
            return str(root)
    else:
        root = Path(folder)
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


def _untrained(name: str) -> bool:
    """Whether this is a model of the world before its first step."""
    return name.startswith(world_models.PREFIX) and name.endswith("@0") and not Path(name).exists()


def _unreadable(name: str, revision: str | None, error: Exception) -> DeltatuneError:
    """What is wrong with a model whose configuration or tokenizer could not be read, or is not there."""
    fetch = f"`hf download {name}{f' --revision {revision}' if revision else ''}`"
    if Path(name).exists():
        return DeltatuneError(f"model {name}: {_reason(error)}")
    if _commit(name, revision):
        again = f"; {fetch} fetches what is missing" if isinstance(error, OSError) else ""
        return DeltatuneError(f"model {name}: {_reason(error)}{again}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        return DeltatuneError(f"model {name}: no such folder; give a folder written by save_pretrained or a hub name")
    from huggingface_hub import constants

    offline = " (offline mode is on)" if constants.is_offline_mode() else ""
    which = f" at revision {revision}" if revision else ""
    return DeltatuneError(
        f"model {name}: no such folder, and not in the cache {constants.HF_HUB_CACHE}{which}{offline}; "
        f"fetch it with {fetch} where there is a network, or give a folder"
    )


def _commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model whose configuration is in the cache; None for a folder, and for what is not there."""
    from huggingface_hub import constants, errors, try_to_load_from_cache

    try:
        found = None if Path(name).exists() else try_to_load_from_cache(name, "config.json", constants.HF_HUB_CACHE, revision)
    except errors.HFValidationError:  # FOLDER@STEP is no hub name
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def _reason(error: Exception) -> str:
    """The first line of the library's message; its long ones in words of our own."""
    text = _first_line(error)
    if unknown := re.search(r"model type `([^`]*)` but Transformers does not recognize", text):
        known = f"transformers {importlib.metadata.version('transformers')}"
        return f"unknown architecture {unknown[1]!r} in its config.json; give a model that {known} knows, or update the library"
    if "custom code" in text:
        return "contains custom code, which is never run here; give a model of an architecture that transformers itself knows"
    return text


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
