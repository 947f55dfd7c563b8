"""A program made for the tests of the runner."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from deltatune.core.cli import Commands, Lazy, Planned, SavedConfig, run
from deltatune.core.errors import DeltatuneError


@dataclass(frozen=True)
class Shape:
    """A shape."""


@dataclass(frozen=True)
class Disc(Shape):
    """A disc.

    Args:
        radius: in metres, above 0
        fill: colour; None for none
    """

    radius: float = 1.0
    fill: str | None = "red"

    def __post_init__(self):
        if self.radius <= 0:
            raise ValueError(f"disc.radius must be above 0, got {self.radius}")


@dataclass(frozen=True)
class Box(Shape):
    """A box."""

    sides: list[float] = field(default_factory=lambda: [1.0, 2.0])
    line: Literal["solid", "dashed"] = "solid"


@dataclass(frozen=True)
class Pen:
    """How to draw."""

    width: int = 2
    """in pixels"""
    smooth: bool = False


CALLS: list[dict] = []


def draw(
    *,
    out_dir: Path,
    saved: SavedConfig,
    shape: Shape | None = None,
    more: list[Shape] | None = None,
    pen: Pen = Pen(),
    scale: float | None = 2.0,
    seeds: list[int] | None = None,
    overwrite: bool = False,
) -> int | None:
    """Draw a shape.

    As often as there are seeds.

    Args:
        out_dir: where the drawing goes
        shape: what to draw
        scale: None keeps the size
        overwrite: draw a finished one again
    """
    CALLS.append({key: value for key, value in locals().items() if key != "saved"} | {"saved": str(saved)})
    return 7 if out_dir == Path("seven") else None


def fail(*, kind: str) -> None:
    """Fail in a way."""
    errors = {
        "mend": DeltatuneError("task.yaml line 3: no label 'x';\n  add it to labels"),
        "defect": KeyError("surprise"),
        "value": ValueError("not about the options"),
        "full": OSError(errno.ENOSPC, "No space left on device", "out/model.safetensors"),
        "stop": KeyboardInterrupt(),
    }
    raise errors[kind]


COMMANDS: Commands = {
    "draw": draw,
    "fail": fail,
    "paint": Planned("fill a shape"),
    "show": {"shape": draw, "pen": Planned("show a pen")},
    "heavy": Lazy("a_module_that_is_not_there:f", "never imported by the list"),
}


@pytest.fixture
def calls():
    """What `draw` was called with, call by call."""
    CALLS.clear()
    return CALLS


@pytest.fixture(scope="session")
def kinds():
    """The types and the command of the program."""
    return SimpleNamespace(Shape=Shape, Disc=Disc, Box=Box, Pen=Pen, draw=draw)


@pytest.fixture
def toy(capsys, calls):
    """`toy(line)`: the code of the program and what it said on both streams."""

    def call(line):
        words = line if isinstance(line, list) else line.split()
        code = run("toy", COMMANDS, words, description="Draws.", choices=[Shape])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
