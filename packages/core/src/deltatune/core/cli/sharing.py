"""Options that several commands have in common, written once."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
_OPTIONS = re.compile(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", re.M)


def sharing(other: Callable[..., Any], without: Collection[str] = (), optional: bool = False) -> Callable[[Function], Function]:
    """Give a command that ends in `**options` the options of `other`, with their types, defaults and help.

    Args:
        other: a typed function of keyword arguments whose docstring has an `Args:` section.
        without: options of `other` that the command does not take.
        optional: options that `other` requires may be left out, and are None then.
    """

    def share(function: Function) -> Function:
        own = [item for item in _parameters(function) if item.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {*without, *(item.name for item in own)}
        shared = [_optional(item) if optional else item for item in _parameters(other) if item.name not in names]
        # What is required stands first in the list of options.
        every = sorted([*own, *shared], key=lambda item: item.default is not inspect.Parameter.empty)
        function.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        function.__annotations__ = {item.name: item.annotation for item in every}
        function.__doc__ = _documented(function, other, {item.name for item in shared})
        return function

    return share


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters, their types resolved where the function was written, all by keyword."""
    hints = typing.get_type_hints(function)
    found = inspect.signature(function).parameters.values()
    keyword, rest = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD
    return [item.replace(annotation=hints[item.name], kind=rest if item.kind is rest else keyword) for item in found]


def _optional(item: inspect.Parameter) -> inspect.Parameter:
    if item.default is not inspect.Parameter.empty:
        return item
    return item.replace(annotation=item.annotation | None, default=None)


def _documented(function: Callable[..., Any], other: Callable[..., Any], names: Collection[str]) -> str:
    """The docstring of `function` with the lines of `other` on the options `names`."""
    text, section = inspect.getdoc(function) or "", _OPTIONS.search(inspect.getdoc(other) or "")
    entries = re.findall(r"^ {4}\w+:.*\n(?: {5,}.*\n?)*", section[1] + "\n" if section else "", re.M)
    lines = "".join(entry for entry in entries if entry.strip().partition(":")[0] in names)
    head, mark, tail = text.partition("Args:\n")
    return f"{head}{mark}{lines}{tail}" if mark else f"{text}\n\nArgs:\n{lines}"
