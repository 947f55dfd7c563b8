"""What commands print where there is no terminal: lines that can be searched and copied."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.table import Table

from deltatune.core.cli.claims_shown import print_table
from deltatune.core.cli.output import PAGE, output
from deltatune.core.data import short_name

LONG = "/".join(f"folder-{number}" for number in range(60)) + "/my task.yaml"


def test_no_cell_and_no_line_is_broken_in_a_pipe(capsys):
    table = Table("task", "value")
    table.add_row(LONG, "[bold]0.5[/bold]")
    output().print(table)
    output().print(f"kept in {LONG}")
    shown = capsys.readouterr().out.splitlines()
    assert sum(LONG in line for line in shown) == 2
    assert "[bold]0.5[/bold]" in next(line for line in shown if LONG in line)
    assert max(map(len, shown)) < len(LONG) + 30  # a table takes no more room than it needs


def test_a_terminal_breaks_a_table_and_no_path_in_a_line_of_its_own(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    output().print(LONG, soft_wrap=True)
    table = Table("task")
    table.add_row(LONG)
    output().print(table)
    first, *others = re.sub(r"\x1b\[\d*m", "", screen.getvalue()).splitlines()
    assert first == LONG
    assert max(map(len, others)) <= 60


def test_a_table_of_sentences_keeps_to_a_page(capsys):
    claim = {"paper": "core", "id": "C1", "statement": "many words " * 60, "paper_value": "", "effect": None, "verdict": "void"}
    print_table([{**claim, "reason": "no base"}])
    assert 150 < max(map(len, capsys.readouterr().out.splitlines())) <= PAGE


@pytest.mark.parametrize(("task", "name"), [("glue/rte", "glue/rte"), (LONG, "my task"), ("a/b.c.yml", "b.c"), ("x", "x")])
def test_a_task_file_is_named_by_its_stem(task, name):
    assert short_name(task) == name
