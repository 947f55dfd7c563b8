"""Where the results of a command are printed."""

from __future__ import annotations

import io
import sys

from rich.console import Console

from deltatune.core.processes import is_main

PAGE = 200  # columns at most of a table of sentences, where there is no terminal
_NO_TERMINAL = 100_000  # columns: no line of a file or a pipe is broken, so a name in a table can be looked for and copied


def output(error: bool = False) -> Console:
    """A console on stdout (or stderr) that prints texts as they are: paths and labels may hold square brackets.

    A terminal breaks the cells of tables to its width; so paths do not stand in tables but in lines of their own, printed with
    `soft_wrap=True`. Of the processes of a launch only the first one prints.
    """
    stream = sys.stderr if error else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a label that the terminal's encoding lacks ends no command
    width = None if stream.isatty() else _NO_TERMINAL
    return Console(file=stream, markup=False, highlight=False, soft_wrap=False, width=width, quiet=not is_main())


def write_data(text: str) -> None:
    """Write lines that other programs read to stdout: utf-8, whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text)
