"""The command `deltatune-subspace`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deltatune.core.cli import Planned
from deltatune.core.cli.runner import locate
from deltatune.subspace.cli import COMMANDS, main

NAMES = ["make-init", "train-delta", "approximate", "optimize", "transfer", "landscape", "report", "reproduce"]
PLANNED = [name for name in NAMES if isinstance(locate(COMMANDS, name.split())[1], Planned)]


@pytest.mark.parametrize("name", PLANNED)
def test_a_command_that_is_not_built_says_so_in_one_line(name, capsys):
    assert main(name.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"deltatune-subspace {name}: error: not built yet in version ")
    assert said.err.count("\n") == 1


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in NAMES if f"\n  {name} " not in text] == []


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "deltatune.subspace", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("deltatune-subspace ")
