"""The command `deltatune-recyclable`; what holds for every program is in tests/test_installed.py."""

from __future__ import annotations

from deltatune.core.cli.runner import locate
from deltatune.recyclable.cli import COMMANDS

NAMES = [
    "tune",
    "apply",
    "interpolate",
    "distill",
    "init",
    "combine",
    "distance",
    "similarity",
    "pretrain",
    "project",
    "sweep",
    "advise",
    "reproduce",
]


def test_the_published_procedures_are_commands():
    assert [name for name in NAMES if locate(COMMANDS, name.split())[0] != name.split()] == []
