"""The command `deltatune-combos`; what holds for every program is in tests/test_installed.py."""

from __future__ import annotations

from deltatune.combos.cli import COMMANDS
from deltatune.core.cli.runner import locate

NAMES = [
    "run",
    "grid",
    "sequence",
    "gather",
    "template show",
    "embed",
    "search labels",
    "search templates",
    "vote",
    "suggest",
    "reproduce",
]


def test_the_published_procedures_are_commands():
    assert [name for name in NAMES if locate(COMMANDS, name.split())[0] != name.split()] == []
