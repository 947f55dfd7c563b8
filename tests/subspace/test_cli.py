"""The command `deltatune-subspace`; what holds for every program is in tests/test_installed.py."""

from __future__ import annotations

from deltatune.core.cli.runner import locate
from deltatune.subspace.cli import COMMANDS

NAMES = [
    "make-init",
    "train-delta",
    "approximate",
    "hypernetwork",
    "add",
    "optimize",
    "transfer",
    "landscape",
    "report",
    "reproduce",
]


def test_the_published_procedures_are_commands():
    assert [name for name in NAMES if locate(COMMANDS, name.split())[0] != name.split()] == []
