"""What the parser says, in one line, with the nearest name where a name is wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

_KEY = re.compile(r'Parser key "([^"]+)":?')
_CLASS = re.compile(r"Problem with given class_path '(?:[^']*\.)?([^'.]*)':")
_UNKNOWN = re.compile(r"(?:Group '(?P<group>[^']+)' does not accept option|Option) '(?P<name>[^']+)'(?: is not accepted)?")
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes.*?Errors:\n(.*?)Given value type:.*?Given value: ", re.S
)
_NO_CHOICE = re.compile(
    r"Expected a dot import path string: (\S+)|Import path does not correspond to a subclass of|is not allowed, denied"
)
_GIVEN = re.compile(r"Given value: (\S+)")


def explain(text: str, known: Collection[str], choices: Mapping[str, Collection[str]] | None = None) -> str:
    """One line for the parser's message `text`.

    Args:
        text: of several lines, in the parser's own terms.
        known: all option names, dotted, among which the nearest is looked up.
        choices: the config classes that can be chosen, each with its options.
    """
    choices = choices or {}
    if text.startswith("unrecognized arguments: "):
        word = text.removeprefix("unrecognized arguments: ").split()[0]
        if not word.startswith("--"):
            return f"unexpected word {word}; every value follows the name of its option"
        name = word.removeprefix("--").partition("=")[0]
        return f"unknown option --{name}; {_nearest(name, known, '--')}"
    if "arguments are required: " in text:
        names = text.partition("arguments are required: ")[2].split(", ")
        return f"missing {', '.join('--' + name for name in names)}"
    keys = _KEY.findall(text)
    rest = _CLASS.sub("", _KEY.sub("", text))
    unknown = _UNKNOWN.search(rest)
    if unknown:
        name = ".".join([*keys, *filter(None, [unknown["group"]]), unknown["name"]])
        if (owner := "".join(_CLASS.findall(text)[-1:])) in choices and name in known:
            return f"{owner} has no option {unknown['name']}; it has {', '.join(choices[owner]) or 'none'}"
        return f"unknown option {name}; {_nearest(name, known)}"
    where = f"{'.'.join(keys)}: " if keys else ""
    if keys and (refused := _NO_CHOICE.search(rest)):
        given = refused[1] or "".join(_GIVEN.findall(rest)[:1])
        return f"{where}there is no choice {given}; the choices are {', '.join(choices)}"
    return where + " ".join(_plain(_of_union(rest)).split())


def _nearest(name: str, known: Collection[str], dashes: str = "") -> str:
    near = get_close_matches(name, sorted(known), 1)
    return f"did you mean {dashes}{near[0]}?" if near else "--help lists the options"


def _of_union(text: str) -> str:
    """Where each member of a union has its complaint, those of the members that could be meant."""
    union = _UNION.search(text)
    if not union:
        return text
    value = text[union.end() :].strip()
    complaints = [" ".join(part.split()) for part in re.split(r"^\s*- ", union[1], flags=re.M) if part.strip()]
    meant = [part for part in complaints if "NoneType" not in part]
    if not meant:
        return text
    if all(part.startswith("Expected a") and "Got value" not in part for part in meant):
        return f"{' or '.join([meant[0], *(part.removeprefix('Expected a ') for part in meant[1:])])}. Got value: {value}"
    return "; ".join(meant)


def _plain(text: str) -> str:
    """The same without the spelling of Python."""
    text = re.sub(r"typing\.Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " or "), text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = text.replace("Expected a ", "expected ").replace(". Got value: ", ", got ")
    return text
