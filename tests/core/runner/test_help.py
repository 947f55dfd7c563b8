"""Help, commands that are imported when they run, and the ends of a pipe."""

from __future__ import annotations

import shlex
import subprocess
import sys
import textwrap

import pytest

from deltatune.core.cli import Commands, Lazy, run
from deltatune.core.cli.messages import explain


def test_a_closed_pipe_ends_without_a_traceback():
    code = "from deltatune.core.cli import main; import sys; sys.exit(main(['--help']))"
    line = f'{shlex.quote(sys.executable)} -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
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
