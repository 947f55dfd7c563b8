"""The commands that the documents show are commands of the programs, with options that exist."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from deltatune.core.cli import CHOICES
from deltatune.core.cli.parsing import parse
from deltatune.core.cli.runner import Lazy, Planned, load, locate
from deltatune.core.errors import DeltatuneError

ROOT = Path(__file__).parents[1]
DOCUMENTS = [path for path in [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md"))] if path.is_file()]
PROGRAM = re.compile(r"(?:^|&& |uv run (?:--package \S+ )?|python -m )(deltatune(?:[-.]\w+)?)(?= |$)")
ALWAYS = {"-h", "--help", "--version", "--debug", "--print_config"}


def _lines(path):
    """The lines of the fenced blocks of `path`, continued lines joined."""
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def _commands():
    for path in DOCUMENTS:
        for line in _lines(path):
            found = PROGRAM.search(line)
            if found:
                words = shlex.split(line[found.start(1) :].partition("&&")[0], comments=True)
                yield pytest.param(words, id=f"{path.relative_to(ROOT)}: {' '.join(words)}")


def _check(words):
    package = re.split(r"[-.]", words[0], maxsplit=1)[1] if words[0] != "deltatune" else "core"
    commands = importlib.import_module(f"deltatune.{package}.cli").COMMANDS
    _, command, rest = locate(commands, words[1:])
    if not isinstance(command, (Lazy, Planned)) and not callable(command):
        assert set(rest) <= ALWAYS, f"{words} names no command"
    elif not isinstance(command, Planned) and ALWAYS.isdisjoint(rest):
        function = load(command.target) if isinstance(command, Lazy) else command
        for option in (word for word in rest if word == "--config"):
            rest[rest.index(option) + 1] = str(ROOT / rest[rest.index(option) + 1])
        parse(function, words[0], rest, [load(choice) for choice in CHOICES])


@pytest.mark.parametrize("words", list(_commands()))
def test_a_command_of_a_document_parses(words):
    _check(words)


@pytest.mark.parametrize("words", [["deltatune", "tone"], ["deltatune-modeconn", "cartography", "x"]])
def test_the_check_refuses_a_command_that_is_not_there(words):
    with pytest.raises(DeltatuneError, match="unknown command"):
        _check(words)


def test_the_check_refuses_an_option_that_is_not_there():
    with pytest.raises(DeltatuneError, match="unknown option --nowhere"):
        _check(["deltatune", "reproduce", "--nowhere"])


def test_the_commands_are_found_in_the_ways_they_are_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\npip install uv && uv run deltatune world \\\n  --x\nuv run --package deltatune-combos deltatune-combos run\n"
        "python -m deltatune.subspace report\ndeltatune\ncd deltatune && ls\n```\n",
        encoding="utf-8",
    )
    found = [match[1] for line in _lines(page) if (match := PROGRAM.search(line))]
    assert found == ["deltatune", "deltatune-combos", "deltatune.subspace", "deltatune"]


def test_ci_calls_the_test_command_of_the_readme():
    command = "pip install uv && uv run nox"
    assert "uv run nox" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_a_python_example_runs_and_is_short(code, monkeypatch):
    # Those of the packages are in test_installed.py.
    assert len(code.splitlines()) <= 15
    monkeypatch.chdir(ROOT)
    exec(compile(code, "example", "exec"), {})


def test_the_measured_tables_are_those_of_the_records(monkeypatch):
    # The command's own function makes the table again, so that neither the page nor the README can drift from the records.
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rows = runpy.run_path(str(ROOT / "benchmarks/real_data.py"))["rows"]
    lines = (ROOT / "docs/records/real_data.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    seeds = [(record["task"], record["deltas"][0]["kind"], record["init_seed"], record["data_seed"]) for record in records]
    assert len(set(seeds)) == len(seeds)
    table = rows(records)
    assert table in (ROOT / "docs/real-data.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (?:glue/|chemprot).*$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M)
    assert {line.split(" | ")[0] for line in shown} == {"| glue/sst-2", "| glue/rte", "| chemprot"}
    assert len(shown) == 12
    assert all(line in table.splitlines() for line in shown)


def test_the_measured_speed_is_that_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rows = runpy.run_path(str(ROOT / "benchmarks/speed.py"))["rows"]
    lines = (ROOT / "docs/records/speed.jsonl").read_text(encoding="utf-8").splitlines()
    assert rows([json.loads(line) for line in lines]) in (ROOT / "docs/performance.md").read_text(encoding="utf-8")


def test_the_measured_world_is_that_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    table = runpy.run_path(str(ROOT / "benchmarks/world_models.py"))["table"]
    lines = (ROOT / "docs/records/world.jsonl").read_text(encoding="utf-8").splitlines()
    assert table([json.loads(line) for line in lines]) in (ROOT / "docs/world.md").read_text(encoding="utf-8")
