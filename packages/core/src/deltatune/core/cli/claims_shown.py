"""What `reproduce` shows while it runs and at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from deltatune.core.claims.running import Done, Unit
from deltatune.core.claims.table import COLUMNS, cells, summary
from deltatune.core.cli.output import PAGE, output

_STYLES = {"reproduced": "green", "contradicted": "red", "inconclusive": "yellow", "void": "magenta", "not run": "dim"}


class Shown:
    """A bar with an estimate on a terminal, a line for each measurement elsewhere, both on standard error.

    Args:
        units: all that are to be measured.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self._console = Console(stderr=True, markup=False, highlight=False)
        self._live = self._console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._live)
        self._total, self._ended, self._found = len(units), 0, 0
        self._open = sum(unit.claim.cost for unit in units)
        self._spent, self._started = 0.0, time.perf_counter()
        # Before anything is measured, the declared costs are all that is known.
        self._task = self._bar.add_task("claims", total=self._total, left=f"about {duration(self._open)} left" if units else "")

    def __enter__(self) -> Shown:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, done: Done) -> None:
        """Count `done`."""
        cost, name = done.unit.claim.cost, f"{done.unit.claim.name} seed {done.unit.seed}"
        self._ended += 1
        self._open -= cost
        if done.found:
            self._found += 1
        else:
            self._spent += cost
        self._bar.update(self._task, completed=self._ended, description=name, left=self._left())
        if done.found:
            return
        how = done.error or f"{(done.measured or {})['seconds']:.1f} s"
        if done.error or not self._live:
            left = self._left()
            self._console.print(f"{self._ended}/{self._total} {name}: {how}{'; ' + left if left else ''}", soft_wrap=True)

    def _left(self) -> str:
        """An estimate, from how long the costs that were declared took so far."""
        if not self._spent or self._open <= 0:
            return ""
        return f"about {duration(self._open * (time.perf_counter() - self._started) / self._spent)} left"


def print_table(claims: Sequence[Mapping[str, Any]]) -> None:
    """Print the findings on standard output."""
    table = Table(show_lines=True)
    for name in COLUMNS:
        table.add_column(name, overflow="fold", ratio=3 if name == "Statement" else None)
    for claim in claims:
        *rest, last = cells(claim)
        table.add_row(*rest, Text(last, style=_STYLES[claim["verdict"]]))
    console = output()
    console.print(table, width=PAGE)
    console.print(f"{summary(claims)}.")


def duration(seconds: float) -> str:
    """`seconds` to read: 40 s, 3 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
