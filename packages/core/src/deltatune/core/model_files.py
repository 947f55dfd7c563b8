"""The files of a pre-trained model on this disk: which folder, and whether they are still the same."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from deltatune.core.backbone import BackboneConfig
from deltatune.core.loading import resolve

# What decides, beside the weights, what a model computes for a text.
_TEXTS = re.compile(
    r"config\.json|generation_config\.json|tokenizer.*|vocab.*|merges.*|special_tokens_map\.json|added_tokens\.json|.*\.model"
)
_WEIGHTS = re.compile(r".*\.(safetensors|bin)")


def model_folder(path: Path) -> Path | None:
    """The folder of the model that `path` addresses: itself, or FOLDER@STEP of a series of `ckpt_STEP`; None if it is no model.

    Raises:
        DeltatuneError: a series without a step, or with one that it does not have.
    """
    root = path if path.exists() else Path(str(path).rpartition("@")[0] or path)
    if not root.is_dir() or not ((root / "config.json").is_file() or any(root.glob("ckpt_*"))):
        return None
    return Path(resolve(str(path)))


def model_files(config: BackboneConfig) -> dict[str, Any] | None:
    """What is cheaply known of a model's files; None where the model is neither a folder nor in the hub's cache.

    Returns:
        "texts": sha256 over the configuration and the tokenizer's files; "weights": size in bytes and time of change in ns of
        each file of weights.
    """
    folder = _folder(config)
    if folder is None:
        return None
    files = sorted(path for path in folder.iterdir() if path.is_file())
    texts = hashlib.sha256()
    for path in files:
        if _TEXTS.fullmatch(path.name):
            texts.update(f"{path.name}\n".encode())
            texts.update(path.read_bytes())
    stats = {path.name: path.stat() for path in files if _WEIGHTS.fullmatch(path.name)}
    return {"texts": texts.hexdigest(), "weights": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}}


def _folder(config: BackboneConfig) -> Path | None:
    from huggingface_hub import constants, errors, try_to_load_from_cache

    folder = Path(resolve(config.model))
    if folder.is_dir():
        return folder
    try:
        found = try_to_load_from_cache(config.model, "config.json", constants.HF_HUB_CACHE, config.revision)
    except errors.HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None
