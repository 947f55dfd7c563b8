"""Where the results of a command are printed."""

from __future__ import annotations

import io
import sys

from rich.console import Console

from deltatune.core.processes import is_main

WIDTH = 200  # columns where there is no terminal, whose width rich would otherwise take for 80 and cut names


def output(error: bool = False) -> Console:
    """A console on stdout (or stderr) that prints texts as they are: paths and labels may hold square brackets.

    Of the processes of a launch only the first one prints.
    """
    stream = sys.stderr if error else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a label that the terminal's encoding lacks ends no command
    width = None if stream.isatty() else WIDTH
    return Console(file=stream, markup=False, highlight=False, soft_wrap=False, width=width, quiet=not is_main())


def write_data(text: str) -> None:
    """Write lines that other programs read to stdout: utf-8, whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text)
