"""Typed functions as commands: find the command, parse its options, turn what the user can mend into one line.

A program is a mapping from names to commands. A command is a typed function of keyword arguments whose docstring is its
help; it is named by `Lazy`, so that `--help` and `--version` import nothing heavy, or given itself. A nested mapping is
a command with commands of its own. `Planned` holds the place of a command that this version does not have.

    COMMANDS: Commands = {
        "tune": Lazy("deltatune.core.cli.tune:tune", "tune deltas of a model on a task"),
        "template": {"show": Planned("show a template on real examples")},
    }
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from deltatune.core.errors import DeltatuneError, SharedError
from deltatune.core.processes import is_main

HELP = frozenset({"-h", "--help"})


@dataclass(frozen=True)
class Lazy:
    """A command whose module is imported when it runs.

    Args:
        target: `module:function`.
        summary: one line for the list of commands.
        first: the option that a first word without `--` is the value of, where there is one.
    """

    target: str
    summary: str
    first: str | None = None


@dataclass(frozen=True)
class Planned:
    """A command that is announced and not built.

    Args:
        summary: one line that says what it will do.
    """

    summary: str


class SavedConfig(str):
    """The options of a command as the YAML that its `--config` reads: all of them, defaults written out.

    A command that wants to be rerun declares a parameter of this type; it is filled in by `run` and is not an option.
    """


Command: TypeAlias = Callable[..., Any] | Lazy | Planned
Commands: TypeAlias = Mapping[str, "Command | Commands"]


def run(
    prog: str,
    commands: Commands,
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    choices: Sequence[str | type] = (),
) -> int:
    """Run the command that `argv` names and return the exit code of the process.

    Args:
        prog: name of the program, for messages.
        commands: what the program can do.
        argv: words after the program's name; those of the process if None.
        description: one paragraph for `prog --help`.
        choices: config base classes (or `module:Class`, imported when a command runs) of which an option takes any
            subclass: `--delta LoRA --delta.rank 8`.

    Returns:
        0; 2 after one line on stderr about something the user can mend; 130 after Ctrl-C; 1 after a defect of the
        program, also in one line. The traceback is printed with `--debug`. A command may return its own code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    place = [prog]
    try:
        path, command, rest = locate(commands, words)
        place += path
        code = _dispatch(" ".join(place), command, rest, description if not path else None, choices)
        sys.stdout.flush()
    except SystemExit as error:  # argparse ends `--help` and `--print_config` this way
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, code = diagnose(error)
        if is_main() or not isinstance(error, SharedError):
            sys.stderr.write(f"{' '.join(place)}: error: {' '.join(message.split())}\n")
    return code


def locate(commands: Commands, words: Sequence[str]) -> tuple[list[str], Command | Commands, list[str]]:
    """The names of the command that `words` starts with, the command (or the mapping they end in), and the other words.

    Raises:
        DeltatuneError: there is no such command; the message has the nearest one.
    """
    path: list[str] = []
    found: Command | Commands = commands
    rest = list(words)
    while isinstance(found, Mapping) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in found:
            near = get_close_matches(name, found, 1)
            hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(found)}"
            raise DeltatuneError(f"unknown command {' '.join([*path, name])}; {hint}")
        path.append(name)
        found = found[name]
    return path, found, rest


def load(target: str) -> Any:
    """The object that `module:name` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _dispatch(
    place: str, command: Command | Commands, words: list[str], description: str | None, choices: Sequence[str | type]
) -> int:
    if isinstance(command, Mapping):
        return _menu(place, command, words, description)
    if isinstance(command, Planned):
        if not HELP.isdisjoint(words):
            sys.stdout.write(f"usage: {place}\n\n{command.summary} (not built yet in version {version()})\n")
            return 0
        raise DeltatuneError(f"not built yet in version {version()}: {command.summary}")
    # Here, not above: the list of commands does not wait for the parser to be imported.
    from deltatune.core.cli.parsing import parse

    bases = [load(choice) if isinstance(choice, str) else choice for choice in choices]
    function = load(command.target) if isinstance(command, Lazy) else command
    if isinstance(command, Lazy) and command.first and words and not words[0].startswith("-"):
        words = [f"--{command.first}={words[0]}", *words[1:]]
    result = function(**parse(function, place, words, bases))
    return result if isinstance(result, int) else 0


def _menu(place: str, commands: Commands, words: list[str], description: str | None) -> int:
    """Print the version or the list of commands; without being asked for it, naming no command is an error (code 2)."""
    unknown = [word for word in words if word not in HELP | {"--version"}]
    if unknown:
        raise DeltatuneError(f"unknown option {unknown[0]} before the name of a command; see {place} --help")
    if "--version" in words:
        sys.stdout.write(f"{place} {version()}\n")
        return 0
    rows = list(_rows(commands))
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"usage: {place} COMMAND [options]", ""]
    if description:
        lines += [" ".join(description.split()), ""]
    lines += ["commands:", *(f"  {name:<{width}}  {summary}" for name, summary in rows), ""]
    lines += ["options:", f"  --help     this list; `{place} COMMAND --help` has the options of a command"]
    lines += ["  --version  the version", "  --debug    with any command: the traceback of an error"]
    (sys.stdout if words else sys.stderr).write("\n".join(lines) + "\n")
    return 0 if words else 2


def _rows(commands: Commands, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, command in commands.items():
        if isinstance(command, Mapping):
            yield from _rows(command, f"{prefix}{name} ")
        elif isinstance(command, Planned):
            yield prefix + name, f"{command.summary} (not built yet)"
        elif isinstance(command, Lazy):
            yield prefix + name, command.summary
        else:
            yield prefix + name, (command.__doc__ or "").strip().partition("\n")[0]


def diagnose(error: BaseException) -> tuple[str, int]:
    """The line for `error`, and the exit code."""
    if isinstance(error, DeltatuneError):
        return str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again to go on", 130
    if isinstance(error, BrokenPipeError):
        # The interpreter flushes stdout once more at exit and would print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return "the program that read the output has ended", 2
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        way_out = "; free some space or choose another --out_dir" if error.errno == errno.ENOSPC else ""
        return f"{where}{error.strerror or error}{way_out}", 2
    return f"unexpected {type(error).__name__}: {error} (a defect of deltatune; --debug shows where)", 1


def version() -> str:
    """The installed version, which all packages of the family share."""
    return importlib.metadata.version("deltatune-core")
