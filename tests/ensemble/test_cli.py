"""The command `deltatune-ensemble`; what holds for every program is in tests/test_installed.py."""

from __future__ import annotations

from deltatune.core.cli.runner import locate
from deltatune.ensemble.cli import COMMANDS

NAMES = ["tune-all", "test-all", "weights", "merge", "start", "tune", "grid", "test", "suggest", "reproduce"]


def test_the_published_procedures_are_commands():
    assert [name for name in NAMES if locate(COMMANDS, name.split())[0] != name.split()] == []
