"""Encoded examples kept between runs: of large tasks in files, and in memory where one process makes many runs.

An entry is found by the digest of all it was made from, so a changed file, tokenizer or setting finds none. Encoding takes
about 0.1 ms an example: below `LEAST` examples reading an entry gains nothing that a user would notice, and none is kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from deltatune.core.between_runs import MOST, remembered
from deltatune.core.data import Example, Task
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import replacing
from deltatune.core.template import Template

LEAST = 10_000
VARIABLE = "DELTATUNE_CACHE"

Features = list[dict[str, Any]]


def folder() -> Path | None:
    """Where entries are: what `DELTATUNE_CACHE` names (None if that is `off`), else `deltatune` in the user's cache."""
    named = os.environ.get(VARIABLE)
    if named:
        return None if named.lower() == "off" else Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltatune"


def kept(
    maker: object, tokenizer: object, examples: Sequence[Example], encode: Callable[[Sequence[Example]], Features]
) -> Features:
    """What `encode` makes of `examples`, from an earlier run if it was kept.

    Args:
        maker: whose attributes decide the result; one that holds what has no digest is not cached.
        tokenizer: of the maker.
        examples: that are encoded, each by itself.
        encode: encodes them.
    """
    known = remembered(tokenizer, settings) if (settings := _settings(maker, tokenizer)) is not None else None
    if known is None or len(examples) > MOST:
        return _filed(maker, examples, encode)
    missing = [example for example in dict.fromkeys(examples) if example not in known]
    known.update(zip(missing, _filed(maker, missing, encode), strict=True))
    return [known[example] for example in examples]


def _settings(maker: object, tokenizer: object) -> str | None:
    """Equal for makers that encode alike with `tokenizer`."""
    kind = type(maker)
    own = {name: value for name, value in vars(maker).items() if value is not tokenizer}
    try:
        return json.dumps([kind.__module__, kind.__qualname__, own], default=_plain)
    except TypeError:
        return None


def _filed(maker: object, examples: Sequence[Example], encode: Callable[[Sequence[Example]], Features]) -> Features:
    place = folder() if len(examples) >= LEAST else None
    name = None if place is None else _digest(maker, examples)
    if place is None or name is None:
        return encode(examples)
    path = place / f"{name}.json"
    found = _read(path)
    if found is None:
        found = encode(examples)
        _write(path, found)
    return found


def _read(path: Path) -> Features | None:
    """The entry; None if there is none or it is damaged."""
    try:
        seal, _, body = path.read_bytes().partition(b"\n")
        return json.loads(body) if seal == _seal(body) else None
    except (OSError, ValueError):
        return None


def _write(path: Path, features: Features) -> None:
    body = json.dumps(features, separators=(",", ":")).encode("utf-8")
    try:
        with replacing(path) as target:
            target.write_bytes(_seal(body) + b"\n" + body)
    except DeltatuneError:  # a full or read-only disk: the run does not need the entry
        return


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode("ascii")


def _digest(maker: object, examples: Sequence[Example]) -> str | None:
    kind = type(maker)
    versions = [importlib.metadata.version(name) for name in ("deltatune-core", "transformers", "tokenizers")]
    parts = [versions, kind.__module__, kind.__qualname__, vars(maker)]
    try:
        digest = hashlib.sha256(json.dumps(parts, default=_plain).encode("utf-8"))
    except TypeError:
        return None
    for example in examples:
        digest.update(json.dumps([example.texts, example.label, example.answers]).encode("utf-8"))
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """The part of `value` that encoding depends on.

    Raises:
        TypeError: of this kind of value that is not known.
    """
    if isinstance(value, Task):
        return value.config.digest, value.labels
    if isinstance(value, Template):
        return str(value)
    if isinstance(value, Tensor):
        return value.tolist()
    if getattr(value, "is_fast", False):
        backend = json.loads(value.backend_tokenizer.to_str())
        # What a call leaves behind, not what a tokenizer is.
        settings = {name: part for name, part in backend.items() if name not in ("truncation", "padding")}
        return [settings, type(value).__name__, value.special_tokens_map, value.model_input_names, value.truncation_side]
    raise TypeError(f"no digest of a {type(value).__name__}")
