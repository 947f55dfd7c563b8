"""From the options of a command back to the words that one would type for them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from deltatune.core.cli.runner import load
from deltatune.core.run import plain


def changed_options(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command, dotted, that do not have their default value.

    Args:
        function: the command.
        values: of its options, plain as in a `config.yaml`; what is no option of the command, or null where the command
            requires a value, is left out.
    """
    found: dict[str, Any] = {}
    for name, item in inspect.signature(function).parameters.items():
        missing = item.default is inspect.Parameter.empty and values.get(name) is None
        if name in values and not missing:
            found |= _changed(name, values[name], item.default)
    return found


def words_of(options: Mapping[str, Any]) -> list[str]:
    """The words that give each option its value."""
    words: list[str] = []
    for option, value in options.items():
        if isinstance(value, Mapping) and "class_path" in value:
            own = {f"{option}.{name}": inner for name, inner in (value.get("init_args") or {}).items()}
            words += words_of({option: value["class_path"], **own})
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        words += [f"--{option}={text}"] if text.startswith("-") or not text else [f"--{option}", text]
    return words


def _changed(name: str, value: Any, default: Any) -> Iterator[tuple[str, Any]]:
    """The options at and below `name` whose value is not the default one, with the value."""
    standard = is_dataclass(default) and not isinstance(default, type)
    if isinstance(value, Mapping) and "class_path" in value:
        path, own = str(value["class_path"]), value.get("init_args") or {}
        # The classes of deltatune are known by their last name.
        yield name, path.rpartition(".")[2] if path.startswith("deltatune.") else path
        for field in fields(load(":".join(path.rsplit(".", 1)))):
            if field.name in own:
                usual = field.default_factory() if field.default_factory is not MISSING else field.default
                yield from _changed(f"{name}.{field.name}", own[field.name], usual)
    elif isinstance(value, Mapping) and standard:
        for inner, item in value.items():
            yield from _changed(f"{name}.{inner}", item, getattr(default, inner))
    elif value != plain(asdict(default) if standard else default):
        yield name, value
