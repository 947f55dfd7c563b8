"""Texts are utf-8 wherever the program runs: the encoding is named, and commands work in the C locale and in awkward folders."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for pattern in ("packages/*/src", "benchmarks", "examples", ".ci") for path in ROOT.glob(f"{pattern}/**/*.py")]


def unnamed(tree):
    """The lines that open a text file without its encoding."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in ("open", "read_text", "write_text") or any(word.arg == "encoding" for word in call.keywords):
            continue
        if ast.unparse(call.func) in ("read_text", "write_text", "os.open"):
            continue  # those of deltatune.core.files are always utf-8; that of the system knows bytes only
        modes = [word.value for word in (*call.args, *(k.value for k in call.keywords)) if isinstance(word, ast.Constant)]
        if not any(isinstance(mode, str) and "b" in mode for mode in modes):
            yield call.lineno


def test_the_rule_finds_what_it_should():
    bad = "open('x')\npath.open()\npath.read_text()\npath.write_text('b')\nopen('x', 'r')\n"
    good = "open('x', 'rb')\npath.open('wb')\nread_text(path)\npath.read_text(encoding='utf-8')\npath.open(mode='rb')\n"
    assert list(unnamed(ast.parse(bad))) == [1, 2, 3, 5]  # the text 'b' of line 4 passes for a mode
    assert list(unnamed(ast.parse(good))) == []


def test_the_encoding_of_every_text_file_is_named():
    found = {str(path.relative_to(ROOT)): list(unnamed(ast.parse(path.read_text(encoding="utf-8")))) for path in SOURCES}
    assert len(found) > 50
    assert not {path: lines for path, lines in found.items() if lines}


@pytest.fixture
def workplace(tmp_path):
    """A folder with a space in its name that holds a copy of the example, with texts beyond ASCII."""
    folder = tmp_path / "a folder with a späce"
    shutil.copytree(ROOT / "examples" / "reviews", folder / "my task")
    for split, count in (("train", 16), ("dev", 6), ("test", 6)):
        path = folder / "my task" / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
        changed = [{**row, "text": f"„{row['text']}“ - très bien, 很好"} for row in rows]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in changed), encoding="utf-8")
    return folder


def test_whole_commands_in_the_c_locale_and_a_folder_with_a_space(workplace):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIOE"))}
    # Left to itself, the interpreter takes the C locale for utf-8; other locales of one byte a character stay what they are.
    environment = plain | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    source, target = workplace / "in put.jsonl", workplace / "out put.jsonl"
    source.write_text(
        json.dumps({"text": "a lovely soup - très bien", "naïve": "é"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    tune = ["tune", "--model", "my task/model", "--task", "my task/task.yaml", "--delta", "LoRA", "--train.steps", "2"]
    commands = [
        [*tune, "--device", "cpu", "--tag", "größer", "--out_dir", "my run"],
        ["evaluate", "--run", "my run", "--device", "cpu", "--predictions", "my predictions.jsonl"],
        ["predict", "--run", "my run", "--device", "cpu", "--input", source.name, "--output", target.name],
        ["predict", "--run", "my run", "--device", "cpu", "--input", source.name],
        ["tune", "--config", "my run/config.yaml", "--data_dir", "nö"],
    ]
    program = f"import sys\nfrom deltatune.core import cli\nfor words in {commands!r}:\n    print(cli.main(words), flush=True)\n"
    script = workplace / "run.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, script.name], cwd=workplace, env=environment, capture_output=True, check=False)
    printed, problems = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, problems
    assert [line for line in printed.splitlines() if line in ("0", "1", "2")] == ["0", "0", "0", "0", "2"], printed + problems
    assert "Traceback" not in problems
    (answer,) = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert (answer["text"], answer["naïve"]) == ("a lovely soup - très bien", "é")
    assert json.loads((workplace / "my run" / "run.json").read_text(encoding="utf-8"))["tag"] == "größer"
    assert json.loads(next(line for line in printed.splitlines() if line.startswith("{"))) == answer
