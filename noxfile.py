"""Checks of the workspace; a plain `nox` runs the default ones. Packages are found by their folders, never listed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
PAPERS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml") if path.parent.name != "core")
EACH_PAPER = nox.parametrize("package", PAPERS, ids=PAPERS)

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "types", "tests", "alone", "reproduce", "minimums"]


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format; docs/api.md is what the docstrings say."""
    _sync(session, "--only-group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("python", "docs/make_api.py", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over the sources of every package."""
    _sync(session, "--no-default-groups", "--group", "types")
    session.run("mypy", *(str(path) for path in sorted(ROOT.glob("packages/*/src"))))


@nox.session
def tests(session: nox.Session) -> None:
    """All tests with the locked versions; what follows `--` goes to pytest instead."""
    _sync(session, "--no-default-groups", "--group", "test")
    _test(session, *(session.posargs or ["tests"]))


@nox.session
@EACH_PAPER
def alone(session: nox.Session, package: str) -> None:
    """The wheels of the core and of one paper in an environment of their own: they import, pass their tests and run."""
    _install(session, package, "pytest", "pytest-xdist", "hypothesis")
    session.run("python", "-I", str(ROOT / ".ci" / "installed.py"), "core", package)
    _test_elsewhere(session, f"tests/{package}", "tests/test_installed.py")
    with session.chdir(session.create_tmp()):
        session.run(*_settings(package)["tiny-command"])


@nox.session
@EACH_PAPER
def reproduce(session: nox.Session, package: str) -> None:
    """The headline claims of one paper, from the wheels of the core and of that paper; one without claims says so."""
    _install(session, package)
    with session.chdir(session.create_tmp()):
        session.run(f"deltatune-{package}", "reproduce")


@nox.session
def minimums(session: nox.Session) -> None:
    """The core's tests on the lowest versions it and they declare, except torch, which is the locked one."""
    _newly_resolved(session, "lowest-direct", f"torch=={_locked_version('torch')}")


@nox.session
def torch_floor(session: nox.Session) -> None:
    """The same with the lowest torch. Not a default: its download is large."""
    _newly_resolved(session, "lowest-direct")


@nox.session
def latest(session: nox.Session) -> None:
    """The core's tests on the newest versions there are. Not a default: a release elsewhere is no defect of a commit."""
    _newly_resolved(session, "highest", f"torch=={_locked_version('torch')}")


def _newly_resolved(session: nox.Session, resolution: str, *constraints: str) -> None:
    """The core's tests without the lock."""
    constraint = Path(session.create_tmp()) / "constraints.txt"
    constraint.write_text("\n".join(constraints), encoding="utf-8")
    # Of a wheel only the wheel itself would be a direct requirement, and "lowest-direct" would take the highest of all others.
    declared = ["-r", str(ROOT / "packages" / "core" / "pyproject.toml"), "--group", "test"]
    session.install("--resolution", resolution, *declared, "-c", str(constraint))
    session.install("--no-deps", str(_wheel(session, "core")))
    session.run("uv", "pip", "check", external=True)
    _test_elsewhere(session, "tests/core")


def _test(session: nox.Session, *words: str, **environment: str) -> None:
    """Test in one process for each core, with one thread each."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    session.run("pytest", "-n", "auto", "--maxprocesses=8", "--dist=worksteal", *words, env=threads | environment)


def _test_elsewhere(session: nox.Session, *paths: str) -> None:
    """Test in the C locale and with a temporary folder that has a long name with blanks."""
    folder = Path(session.create_tmp()) / "a temporary folder with a long name and blanks in it"
    folder.mkdir(exist_ok=True)
    _test(session, *paths, LC_ALL="C", TMPDIR=str(folder))


def _sync(session: nox.Session, *selection: str) -> None:
    """Install from the lock, nothing resolved anew."""
    environment = {"UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    python = f"--python={session.virtualenv.location}"
    session.run_install("uv", "sync", "--locked", "--quiet", python, *selection, env=environment)


def _install(session: nox.Session, package: str, *tools: str) -> None:
    """Install the core and `package` from fresh wheels by their paths, so that no registry can stand in for one."""
    wheels = [str(_wheel(session, name)) for name in ("core", package)]
    session.install(*wheels, *tools, "-c", str(_locked(session)))


def _wheel(session: nox.Session, package: str) -> Path:
    folder = Path(session.create_tmp()) / f"wheel-{package}"
    for old in folder.glob("*.whl"):
        old.unlink()
    source = str(ROOT / "packages" / package)
    session.run_install("uv", "build", "--quiet", "--wheel", source, "--out-dir", str(folder), external=True)
    return next(folder.glob("*.whl"))


def _locked(session: nox.Session) -> Path:
    """The lock as constraints: every version, no package of the workspace."""
    constraints = Path(session.create_tmp()) / "locked.txt"
    options = ["--frozen", "--all-groups", "--no-emit-workspace", "--no-hashes", "--no-annotate", "--quiet"]
    session.run_install("uv", "export", *options, "--output-file", str(constraints), external=True)
    return constraints


def _locked_version(distribution: str) -> str:
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return next(str(package["version"]) for package in packages if package["name"] == distribution)


def _settings(package: str) -> dict[str, Any]:
    """What a package says about its own checks, under `tool.deltatune` of its pyproject.toml."""
    text = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    settings: dict[str, Any] = tomllib.loads(text)["tool"]["deltatune"]
    return settings
