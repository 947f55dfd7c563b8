"""The command-line runner, on a program made for the purpose."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.cli import Commands, Lazy, Planned, SavedConfig, run
from deltatune.core.cli.messages import explain
from deltatune.core.cli.parsing import options, parse
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
def toy(capsys):
    CALLS.clear()

    def call(line):
        words = line if isinstance(line, list) else line.split()
        code = run("toy", COMMANDS, words, description="Draws.", choices=[Shape])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def _error(result):
    """The one line of a refused command."""
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), result
    assert "Traceback" not in err
    return err.rstrip("\n")


def test_options_reach_the_function_with_their_types(toy):
    code, _, err = toy("draw --out_dir o --shape Disc --shape.radius 2 --pen.width 4 --scale null --seeds [0,1]")
    assert (code, err) == (0, "")
    (call,) = CALLS
    assert call["out_dir"] == Path("o")
    assert call["shape"] == Disc(2.0)
    assert call["pen"] == Pen(4)
    assert call["scale"] is None
    assert call["seeds"] == [0, 1]
    assert call["overwrite"] is False


def test_a_list_of_choices(toy):
    toy("draw --out_dir o --more+ Disc --more.radius 3 --more+ Box --more.line dashed")
    assert CALLS[0]["more"] == [Disc(3.0), Box(line="dashed")]


@pytest.mark.parametrize(
    ("words", "value"),
    [("--overwrite", True), ("--overwrite true", True), ("--overwrite=false", False), ("--overwrite False", False), ("", False)],
)
def test_a_bool_needs_no_value(toy, words, value):
    toy(f"draw {words} --out-dir o")
    assert CALLS[0]["overwrite"] is value


def test_a_nested_bool_needs_no_value(toy):
    toy("draw --pen.smooth --out_dir o")
    assert CALLS[0]["pen"].smooth is True


def test_the_saved_config_reruns_the_command(toy, tmp_path):
    toy("draw --out_dir o --shape Box --shape.sides [3,4.5] --scale null --seeds [5] --overwrite")
    file = tmp_path / "config.yaml"
    file.write_text(CALLS[0]["saved"], encoding="utf-8")
    toy(f"draw --config {file}")
    assert CALLS[1] == CALLS[0]


def test_an_option_wins_over_the_config_file_on_either_side_of_it(toy, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("out_dir: o\npen:\n  width: 3\n  smooth: true\n", encoding="utf-8")
    toy(f"draw --pen.width 5 --config {file}")
    toy(f"draw --config={file} --pen.width 5")
    assert [call["pen"] for call in CALLS] == [Pen(5, True)] * 2


def test_print_config_prints_what_config_reads(toy, tmp_path):
    code, out, err = toy("draw --out_dir o --shape Disc --shape.fill null --scale null --print_config")
    assert (code, err, CALLS) == (0, "", [])
    file = tmp_path / "config.yaml"
    file.write_text(out, encoding="utf-8")
    toy(f"draw --config {file}")
    assert CALLS[0]["shape"] == Disc(fill=None)
    assert CALLS[0]["scale"] is None
    assert CALLS[0]["saved"] == out


TEXTS = ["0", "1e3", "-1.5E-3", "true", "a: b", "[x", "'q'", " x ", "ü", "", "a\nb"]


@settings(max_examples=30, deadline=None)
@given(
    radius=st.floats(min_value=1e-6, max_value=1e6),
    fill=st.none() | st.sampled_from(TEXTS) | st.text("ae1.-+_: "),
    seeds=st.none() | st.lists(st.integers(0, 10), max_size=3),
)
def test_any_config_survives_being_saved_and_read(tmp_path_factory, radius, fill, seeds):
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    shape = {"class_path": "Disc", "init_args": {"radius": radius, "fill": fill}}
    file.write_text(json.dumps({"out_dir": "o", "shape": shape, "seeds": seeds}), encoding="utf-8")
    first = parse(draw, "toy", ["--config", str(file)], [Shape])
    assert first["shape"] == Disc(radius, fill)
    assert first["seeds"] == seeds
    file.write_text(first["saved"], encoding="utf-8")
    assert parse(draw, "toy", ["--config", str(file)], [Shape]) == first


def test_the_code_of_a_command_is_the_code_of_the_program(toy):
    assert toy("draw --out_dir seven")[0] == 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("drow", "toy: error: unknown command drow; did you mean draw?"),
        ("xyz", "toy: error: unknown command xyz; the commands are draw, fail, paint, show, heavy"),
        ("show shap", "toy: error: unknown command show shap; did you mean shape?"),
        ("--verbose", "toy: error: unknown option --verbose before the name of a command; see toy --help"),
        ("paint", "toy paint: error: not built yet in version 0.1.0: fill a shape"),
        ("show pen --x 3", "toy show pen: error: not built yet in version 0.1.0: show a pen"),
        ("draw", "toy draw: error: missing --out_dir"),
        ("draw o", "toy draw: error: unexpected word o; every value follows the name of its option"),
        ("draw --out_dir o --scael 3", "toy draw: error: unknown option --scael; did you mean --scale?"),
        ("draw --out_dir o --pen.wdth 3", "toy draw: error: unknown option --pen.wdth; did you mean --pen.width?"),
        ("draw --out_dir o --qqqqqq 3", "toy draw: error: unknown option --qqqqqq; --help lists the options"),
        (
            "draw --out_dir o --shape Disc --shape.radios 3",
            "toy draw: error: unknown option shape.radios; did you mean shape.radius?",
        ),
        ("draw --out_dir o --shape Disk", "toy draw: error: shape: there is no choice Disk; the choices are Disc, Box"),
        ("draw --out_dir o --shape os.system", "toy draw: error: shape: there is no choice os.system; the choices are Disc, Box"),
        ("draw --out_dir o --shape Disc --shape.radius -1", "toy draw: error: disc.radius must be above 0, got -1.0"),
        ("draw --out_dir o --shape Box --shape.line dotted", "toy draw: error: shape.line: expected solid or dashed, got dotted"),
        ("draw --out_dir o --pen.width wide", "toy draw: error: pen.width: expected int, got wide"),
        ("draw --out_dir o --scale big", "toy draw: error: scale: expected float, got big"),
        ("draw --out_dir", "toy draw: error: argument --out_dir: expected one argument"),
        ("draw --config", "toy draw: error: --config needs the name of a file"),
        ("draw --config nowhere.yaml", "toy draw: error: no such --config file: nowhere.yaml"),
        ("fail --kind mend", "toy fail: error: task.yaml line 3: no label 'x'; add it to labels"),
        (
            "fail --kind full",
            "toy fail: error: out/model.safetensors: No space left on device; free some space or choose another --out_dir",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line(toy, line, message):
    assert _error(toy(line)) == message
    assert CALLS == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"out_dir: o\nscael: 3\n", "unknown option scael; did you mean scale?"),
        (b"out_dir: o\npen:\n  wdith: 3\n", "unknown option pen.wdith; did you mean pen.width?"),
        (
            b"out_dir: o\nshape:\n  class_path: Disc\n  init_args:\n    raduis: 3\n",
            "unknown option shape.raduis; did you mean shape.radius?",
        ),
        (
            b"out_dir: o\nshape:\n  class_path: Disc\n  init_args:\n    radius: 0\n",
            "disc.radius must be above 0, got 0.0",
        ),
        (b"out_dir: [\n", "{file} line 2: not YAML ("),
        (b"scale: 1\nout_dir: o\nscale: 2\n", "{file} line 3: the key 'scale' stands there twice; keep one of them"),
        (b"- 1\n", "{file}: expected `key: value` lines, got a list"),
        (b"", "{file} is empty; write `key: value` lines"),
        (b"out_dir: \xff\n", "{file} is not utf-8 at byte 9; convert it first"),
        (b"scale: 3\n", "missing --out_dir"),
    ],
)
def test_a_bad_config_file_is_one_line(toy, tmp_path, text, message):
    file = tmp_path / "config.yaml"
    file.write_bytes(text)
    assert _error(toy(f"draw --config {file}")).startswith(f"toy draw: error: {message.replace('{file}', str(file))}")
    assert CALLS == []


def test_ctrl_c_ends_with_130(toy):
    code, _, err = toy("fail --kind stop")
    assert code == 130
    assert err == "toy fail: error: interrupted; run the same command again to go on\n"


@pytest.mark.parametrize(("kind", "name"), [("defect", "KeyError: 'surprise'"), ("value", "ValueError: not about the options")])
def test_a_defect_is_one_line_and_code_1(toy, kind, name):
    code, _, err = toy(f"fail --kind {kind}")
    assert code == 1
    assert err == f"toy fail: error: unexpected {name} (a defect of deltatune; --debug shows where)\n"


@pytest.mark.parametrize("line", ["fail --kind defect --debug", "--debug fail --kind mend", "draw --debug"])
def test_the_traceback_is_printed_with_debug(toy, line):
    code, _, err = toy(line)
    assert code in (1, 2)
    assert "Traceback (most recent call last)" in err
    assert "toy" in err.splitlines()[-1]


def test_a_closed_pipe_ends_without_a_traceback():
    code = "from deltatune.core.cli import main; import sys; sys.exit(main(['--help']))"
    line = f'{sys.executable} -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_help_lists_the_commands_and_imports_none(toy):
    code, out, err = toy("--help")
    assert (code, err) == (0, "")
    for row in (
        "draw        Draw a shape.",
        "show shape  Draw a shape.",
        "paint       fill a shape (not built yet)",
        "never imported",
    ):
        assert row in out


def test_no_command_is_the_list_on_stderr_and_code_2(toy):
    code, out, err = toy("")
    assert (code, out) == (2, "")
    assert "commands:" in err
    assert toy("show")[0] == 2


def test_help_of_a_command_has_the_docstring(toy):
    code, out, _ = toy("draw --help")
    assert code == 0
    words = " ".join(out.split())
    assert words.startswith("usage: toy draw")
    assert "Draw a shape. As often as there are seeds." in words
    for text in ("where the drawing goes", "None keeps the size", "in pixels", "--shape.help", "--debug"):
        assert text in words
    assert "saved" not in words


def test_help_of_a_choice_has_its_fields(toy):
    code, out, _ = toy("draw --shape.help Disc")
    assert code == 0
    assert "in metres, above 0" in out


def test_help_of_a_planned_command_is_no_error(toy):
    code, out, _ = toy("paint --help")
    assert code == 0
    assert "not built yet" in out


def test_the_options_of_a_command_include_those_of_every_choice():
    known = dict(options(draw, [Shape]))
    assert known["overwrite"] is bool
    assert known["shape.radius"] is float
    assert {"shape.sides", "pen.width", "pen.smooth", "more.line"} <= set(known)
    assert "saved" not in known


def test_a_message_of_another_kind_stays_what_it_is():
    assert explain("something\n  quite new", {"a"}) == "something quite new"


def test_lazy_commands_are_imported_when_they_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "late_module.py").write_text(
        textwrap.dedent(
            '''
            from pathlib import Path
            def write(*, text: str) -> None:
                """Write."""
                Path("written").write_text(text, encoding="utf-8")
            '''
        ),
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands: Commands = {"write": Lazy("late_module:write", "writes")}
    assert run("toy", commands, ["--help"]) == 0
    assert "late_module" not in sys.modules
    assert run("toy", commands, ["write", "--text", "a b"]) == 0
    assert (tmp_path / "written").read_text(encoding="utf-8") == "a b"
    capsys.readouterr()


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_of_deltatune_import_nothing_heavy(word):
    code = (
        "import sys; from deltatune.core.cli import main; code = main(sys.argv[1:]); "
        "print(code, {'torch', 'transformers', 'jsonargparse', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()", "deltatune.core must import its public names when they are used"


def test_deltatune_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "deltatune.core", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("deltatune ")
