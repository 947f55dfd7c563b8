"""Reading the YAML that users write: plain values only, no key twice, errors with the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_text


class _Loader(yaml.SafeLoader):
    """Plain values; YAML itself lets the last of two equal keys win, which hides a slip."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands there twice; keep one of them", key.start_mark
                )
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        DeltatuneError: missing, not utf-8, not YAML or a key twice (with the line), or something else than keys and values.
    """
    text = read_text(path)
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.constructor.ConstructorError as error:
        raise DeltatuneError(f"{path}{_line(error)}: {error.problem}") from error
    except yaml.MarkedYAMLError as error:
        raise DeltatuneError(f"{path}{_line(error)}: not YAML ({error.problem}); mend the line") from error
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML forbids; a date that is none
        raise DeltatuneError(f"{path}: not YAML ({' '.join(str(error).split())}); mend it") from error
    if values is None:
        raise DeltatuneError(f"{path} is empty; write `key: value` lines")
    if not isinstance(values, dict):
        raise DeltatuneError(f"{path}: expected `key: value` lines, got a {type(values).__name__}")
    return values


def _line(error: yaml.MarkedYAMLError) -> str:
    return f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
