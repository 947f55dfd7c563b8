"""How words and files become the options of a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.cli.parsing import options, parse


def test_options_reach_the_function_with_their_types(toy, calls, kinds):
    code, _, err = toy("draw --out_dir o --shape Disc --shape.radius 2 --pen.width 4 --scale null --seeds [0,1]")
    assert (code, err) == (0, "")
    (call,) = calls
    assert call["out_dir"] == Path("o")
    assert call["shape"] == kinds.Disc(2.0)
    assert call["pen"] == kinds.Pen(4)
    assert call["scale"] is None
    assert call["seeds"] == [0, 1]
    assert call["overwrite"] is False


def test_a_list_of_choices(toy, calls, kinds):
    toy("draw --out_dir o --more+ Disc --more.radius 3 --more+ Box --more.line dashed")
    assert calls[0]["more"] == [kinds.Disc(3.0), kinds.Box(line="dashed")]


@pytest.mark.parametrize(
    ("words", "value"),
    [("--overwrite", True), ("--overwrite true", True), ("--overwrite=false", False), ("--overwrite False", False), ("", False)],
)
def test_a_bool_needs_no_value(toy, words, value, calls):
    toy(f"draw {words} --out-dir o")
    assert calls[0]["overwrite"] is value


def test_a_nested_bool_needs_no_value(toy, calls):
    toy("draw --pen.smooth --out_dir o")
    assert calls[0]["pen"].smooth is True


def test_the_saved_config_reruns_the_command(toy, tmp_path, calls):
    toy("draw --out_dir o --shape Box --shape.sides [3,4.5] --scale null --seeds [5] --overwrite")
    file = tmp_path / "config.yaml"
    file.write_text(calls[0]["saved"], encoding="utf-8")
    toy(["draw", "--config", str(file)])
    assert calls[1] == calls[0]


def test_an_option_wins_over_the_config_file_on_either_side_of_it(toy, tmp_path, calls, kinds):
    file = tmp_path / "config.yaml"
    file.write_text("out_dir: o\npen:\n  width: 3\n  smooth: true\n", encoding="utf-8")
    toy(["draw", "--pen.width", "5", "--config", str(file)])
    toy(["draw", f"--config={file}", "--pen.width", "5"])
    assert [call["pen"] for call in calls] == [kinds.Pen(5, True)] * 2


def test_print_config_prints_what_config_reads(toy, tmp_path, calls, kinds):
    code, out, err = toy("draw --out_dir o --shape Disc --shape.fill null --scale null --print_config")
    assert (code, err, calls) == (0, "", [])
    file = tmp_path / "config.yaml"
    file.write_text(out, encoding="utf-8")
    toy(["draw", "--config", str(file)])
    assert calls[0]["shape"] == kinds.Disc(fill=None)
    assert calls[0]["scale"] is None
    assert calls[0]["saved"] == out


TEXTS = ["0", "1e3", "-1.5E-3", "true", "a: b", "[x", "'q'", " x ", "ü", "", "a\nb"]


@settings(max_examples=30, deadline=None)
@given(
    radius=st.floats(min_value=1e-6, max_value=1e6),
    fill=st.none() | st.sampled_from(TEXTS) | st.text("ae1.-+_: "),
    seeds=st.none() | st.lists(st.integers(0, 10), max_size=3),
)
def test_any_config_survives_being_saved_and_read(tmp_path_factory, radius, fill, seeds, kinds):
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    shape = {"class_path": "Disc", "init_args": {"radius": radius, "fill": fill}}
    file.write_text(json.dumps({"out_dir": "o", "shape": shape, "seeds": seeds}), encoding="utf-8")
    first = parse(kinds.draw, "toy", ["--config", str(file)], [kinds.Shape])
    assert first["shape"] == kinds.Disc(radius, fill)
    assert first["seeds"] == seeds
    file.write_text(first["saved"], encoding="utf-8")
    assert parse(kinds.draw, "toy", ["--config", str(file)], [kinds.Shape]) == first


def test_the_options_of_a_command_include_those_of_every_choice(kinds):
    known = dict(options(kinds.draw, [kinds.Shape]))
    assert known["overwrite"] is bool
    assert known["shape.radius"] is float
    assert {"shape.sides", "pen.width", "pen.smooth", "more.line"} <= set(known)
    assert "saved" not in known
