"""What holds for every package of the family that is installed, whichever they are.

The session `alone` of the noxfile runs this file where the core and one paper are installed, and nothing else of the family.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import deltatune
from deltatune.core.cli import Planned

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(module.name for module in pkgutil.iter_modules(deltatune.__path__))
LONGEST = 15  # lines of an example


def _program(package: str) -> str:
    return "deltatune" if package == "core" else f"deltatune-{package}"


def _commands(commands: Mapping, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every command with its words; those of a nested mapping in its place."""
    for name, command in commands.items():
        if isinstance(command, Mapping):
            yield from _commands(command, (*before, name))
        else:
            yield (*before, name), command


def _all_commands() -> Iterator[tuple[str, tuple[str, ...], object]]:
    for package in PACKAGES:
        for words, command in _commands(importlib.import_module(f"deltatune.{package}.cli").COMMANDS):
            yield package, words, command


PLANNED = [(package, words) for package, words, command in _all_commands() if isinstance(command, Planned)]


@pytest.mark.parametrize(("package", "words"), PLANNED, ids=lambda item: item if isinstance(item, str) else " ".join(item))
def test_a_command_that_is_not_built_says_so_in_one_line(package, words, capsys):
    assert importlib.import_module(f"deltatune.{package}.cli").main(list(words)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{_program(package)} {' '.join(words)}: error: not built yet in version ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_help_lists_every_command(package, capsys):
    module = importlib.import_module(f"deltatune.{package}.cli")
    assert module.main(["--help"]) == 0
    text = capsys.readouterr().out
    listed = re.findall(r"^  ([a-z][\w -]*?)  ", text.partition("\ncommands:\n")[2].partition("\noptions:\n")[0], flags=re.M)
    assert listed == [" ".join(words) for words, _ in _commands(module.COMMANDS)]
    assert listed[-1] == "reproduce"


@pytest.mark.parametrize("package", PACKAGES)
def test_it_runs_as_a_module(package):
    command = [sys.executable, "-m", f"deltatune.{package}", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{_program(package)} ")


def _examples() -> Iterator[object]:
    for package in PACKAGES:
        text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S), 1):
            yield pytest.param(code, id=f"{package} {number}")


@pytest.mark.parametrize("code", list(_examples()))
def test_a_python_example_of_a_package_runs_in_a_folder_with_the_examples(code, tmp_path, monkeypatch):
    assert len(code.splitlines()) <= LONGEST
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})


def test_the_core_has_an_example():
    assert "core" in PACKAGES
    assert any(example.id.startswith("core ") for example in _examples())
