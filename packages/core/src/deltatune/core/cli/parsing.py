"""From the words after a command to the arguments of its function."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_dumper, set_parsing_settings

from deltatune.core.cli.help_text import HelpText, usage
from deltatune.core.cli.messages import explain
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_text
from deltatune.core.yaml_files import read_yaml

_CONFIG_HELP = "YAML file of these options, such as the config.yaml of a run; an option given beside it wins"
_EPILOG = "An option with {true,false} given alone is true. --debug shows the traceback of an error."
_ALWAYS = frozenset({"config", "help", "print_config"})


class _Dumper(yaml.SafeDumper):
    """Quotes every string that the parser would read back as a number: it takes 1e3 for one, the format does not."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse(function: Callable[..., Any], prog: str, words: Sequence[str], bases: Sequence[type] = ()) -> dict[str, Any]:
    """The keyword arguments of `function` that `words` gives.

    Hyphens in option names count as underscores, a bool option needs no value, and `--config` is read first wherever it
    stands.

    Args:
        function: typed; scalars, paths, lists, `Literal`, frozen dataclasses, and subclasses of `bases`.
        prog: what the usage line calls the command.
        words: the words after the command.
        bases: config classes of which an option takes any subclass by name.

    Raises:
        DeltatuneError: one line about the first thing that does not fit.
        SystemExit: after `--help` or `--print_config`.
    """
    # An empty denylist adds nothing to the built-in one (os, subprocess, ...) and turns its warnings into refusals.
    set_parsing_settings(docstring_parse_attribute_docstrings=True, subclasses_enabled=list(bases), import_path_denylist=[])
    set_dumper("yaml", _dump)
    known = dict(options(function, bases))
    saved = [name for name, hint in _hints(function).items() if hint is SavedConfig]
    parser = ArgumentParser(
        prog=prog,
        usage=usage(prog, _required(function)),
        description=_description(function),
        epilog=_EPILOG,
        exit_on_error=False,
        formatter_class=HelpText,
    )
    parser.add_argument("--config", action="config", help=_CONFIG_HELP)
    parser.add_function_arguments(function, as_group=False, as_positional=False, skip={*saved})
    try:
        config = parser.parse_args(_normalised(words, known))
        config.pop("config")
        text = parser.dump(config, skip_unset=False)
        arguments = vars(parser.instantiate(config))
    except (ArgumentError, ValueError) as error:
        chosen = (child for base in bases for child in _descendants(base) if child is not base)
        choices = {child.__name__: [field.name for field in dataclasses.fields(child)] for child in chosen}
        raise DeltatuneError(explain(str(error).removeprefix('Parser key "config": '), {*known, *_ALWAYS}, choices)) from error
    return {**arguments, **{name: SavedConfig(text) for name in saved}}


def split_names(text: str | None) -> tuple[str, ...]:
    """The names in an option that takes several, separated by commas; none where it is left out."""
    return tuple(name for name in (word.strip() for word in (text or "").split(",")) if name)


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def options(function: Callable[..., Any], bases: Sequence[type] = ()) -> Iterator[tuple[str, Any]]:
    """All options of `function` with their types: `out_dir`, `train.steps`, `delta.rank` (of every known subclass)."""
    for name, hint in _hints(function).items():
        if hint is not SavedConfig:
            yield name, hint
            yield from _fields(hint, name, bases)


def _fields(hint: Any, prefix: str, bases: Sequence[type]) -> Iterator[tuple[str, Any]]:
    for part in typing.get_args(hint):
        yield from _fields(part, prefix, bases)
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return
    owners: Iterable[type] = _descendants(hint) if issubclass(hint, tuple(bases)) else [hint]
    for owner in owners:
        hints = typing.get_type_hints(owner)
        for field in dataclasses.fields(owner):
            yield f"{prefix}.{field.name}", hints[field.name]
            yield from _fields(hints[field.name], f"{prefix}.{field.name}", bases)


def _descendants(base: type) -> Iterator[type]:
    yield base
    children: list[type] = base.__subclasses__()
    for child in children:
        yield from _descendants(child)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(function)
    return {name: hints[name] for name in inspect.signature(function).parameters}


def _required(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters
    return [
        name
        for name, hint in _hints(function).items()
        if hint is not SavedConfig and parameters[name].default is inspect.Parameter.empty
    ]


def _description(function: Callable[..., Any]) -> str:
    """The docstring without its sections, which the parser shows beside each option."""
    return re.split(r"\n\s*(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0]


def _normalised(words: Sequence[str], known: dict[str, Any]) -> list[str]:
    """The words as the parser takes them: names with underscores, a value for each bool, config files first."""
    configs: list[str] = []
    others: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--"):
            others.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        follows = remaining[0] if remaining else "--"
        if name == "config" and not equals and not follows.startswith("--"):
            equals, value = "=", remaining.pop(0)
        if name == "config":
            equals, value = "=", _content(value)
        elif known.get(name) is bool and not equals and follows.lower() not in ("true", "false"):
            equals, value = "=", "true"
        (configs if name == "config" else others).append(f"--{name}{equals}{value}")
    return configs + others


def _content(name: str) -> str:
    """The text of a config file: the parser takes it as well as the file, which it would not read as utf-8 everywhere."""
    if not name:
        raise DeltatuneError("--config needs the name of a file")
    if not Path(name).is_file():
        raise DeltatuneError(f"no such --config file: {name}")
    read_yaml(Path(name))  # the parser lets the last of two equal keys win
    return read_text(Path(name))
