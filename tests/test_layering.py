"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("packages/*/src/deltatune/*"))
CORE = ROOT / "packages/core/src/deltatune/core"


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports when it runs, wherever in it; what only a type checker imports does not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from _imports(node)


def _deltatune_imports(path: Path) -> list[list[str]]:
    """The imports of the family in `path`, each as its parts after `deltatune`."""
    found = _imports(ast.parse(path.read_text(encoding="utf-8")))
    return [name.split(".")[1:] for name in found if name.split(".")[0] == "deltatune"]


def _order() -> dict[str, int]:
    """The height of each module in the table of docs/architecture.md; those of one line have one height."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE)
    return {Path(name).stem: height for height, row in enumerate(rows) for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("folder", SOURCES, ids=lambda path: path.name)
def test_a_package_imports_the_core_and_itself_only(folder):
    allowed = {"core", folder.name}
    strangers = [
        f"{path.relative_to(ROOT)}: {'.'.join(parts)}"
        for path in folder.rglob("*.py")
        for parts in _deltatune_imports(path)
        if parts[:1] and parts[0] not in allowed
    ]
    assert not strangers


def _core_modules() -> list[Path]:
    return [path for path in sorted(CORE.rglob("*.py")) if path.relative_to(CORE).parts[0] not in _ABOVE_ALL]


_ABOVE_ALL = ("__init__.py", "__main__.py")


def test_every_core_module_has_its_line_in_the_architecture():
    names = {path.relative_to(CORE).parts[0].removesuffix(".py") for path in _core_modules()}
    assert not names - set(_order()), "add these modules to the table of docs/architecture.md, at their height"


def test_core_modules_import_only_what_stands_above_them_in_the_architecture():
    order = _order()
    wrong = []
    for path in _core_modules():
        own = path.relative_to(CORE).parts[0].removesuffix(".py")
        for parts in _deltatune_imports(path):
            if len(parts) > 1 and parts[1] in order and own in order and order[parts[1]] > order[own]:
                wrong.append(f"{path.relative_to(CORE)} imports {parts[1]}")
    assert not wrong


def test_the_reader_of_imports_sees_those_inside_functions_and_not_those_for_types(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "from deltatune.core import weights\n"
        "if TYPE_CHECKING:\n    from deltatune.core.run import Run\n"
        "def f():\n    import deltatune.modeconn.method\n",
        encoding="utf-8",
    )
    assert _deltatune_imports(file) == [["core", "weights"], ["modeconn", "method"]]
