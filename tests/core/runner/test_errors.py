"""What a program says and returns when something is wrong."""

from __future__ import annotations

import pytest


def _error(result):
    """The one line of a refused command."""
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), result
    assert "Traceback" not in err
    return err.rstrip("\n")


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
def test_what_the_user_can_mend_is_one_line(toy, line, message, calls):
    assert _error(toy(line)) == message
    assert calls == []


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
def test_a_bad_config_file_is_one_line(toy, tmp_path, text, message, calls):
    file = tmp_path / "config.yaml"
    file.write_bytes(text)
    assert _error(toy(["draw", "--config", str(file)])).startswith(f"toy draw: error: {message.replace('{file}', str(file))}")
    assert calls == []


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
