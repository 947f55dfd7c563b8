"""What a long command shows while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A context that reports on the steps of one task, on standard error.

    Args:
        title: what is being done.
        total: its steps.
        done: steps that an earlier, interrupted call has done.
        shown: whether anything is written at all.
    """

    def __init__(self, title: str, total: int, done: int = 0, shown: bool = True) -> None:
        self._title, self._total, self._shown = title, total, shown
        self._console = Console(stderr=True, markup=False, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        live = shown and self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not live)
        self._task = self._bar.add_task(title, total=total, completed=done)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, step: int, note: str, line: bool) -> None:
        """Show that `step` steps are done, with `note` beside; off a terminal only where `line` asks for one."""
        self._bar.update(self._task, completed=step, description=f"{self._title} {note}")
        if self._shown and line and not self._console.is_terminal:
            self._console.print(f"{self._title} {step}/{self._total} {note}")
