"""The command `deltatune-modeconn`; what holds for every program is in tests/test_installed.py."""

from __future__ import annotations

from deltatune.core.cli.runner import locate
from deltatune.modeconn.cli import COMMANDS

NAMES = ["tune", "grid", "walk", "curve", "mix", "plane", "cartography record", "cartography combine", "distance", "report"]


def test_the_published_procedures_are_commands():
    assert [name for name in [*NAMES, "reproduce"] if locate(COMMANDS, name.split())[0] != name.split()] == []
