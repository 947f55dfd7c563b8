"""What the six packages declare about themselves."""

from __future__ import annotations

import importlib
import importlib.metadata
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
PAPERS = [path for path in PACKAGES if path.name != "core"]


def _project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def _name(path):
    return path.name


def test_there_are_six_packages_of_one_version():
    versions = {folder.name: _project(folder)["project"]["version"] for folder in [*PACKAGES, ROOT]}
    assert len(PACKAGES) == 6
    assert len(set(versions.values())) == 1, versions


def test_the_changelog_and_the_citation_name_the_version():
    version = _project(ROOT)["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", PAPERS, ids=_name)
def test_a_paper_pins_the_core_of_its_own_version(folder):
    project = _project(folder)["project"]
    assert f"deltatune-core=={project['version']}" in project["dependencies"]
    assert not [item for item in project["dependencies"] if item.startswith("deltatune-") and "core==" not in item]


@pytest.mark.parametrize("folder", PACKAGES, ids=_name)
def test_a_package_is_named_typed_licensed_and_described(folder):
    project = _project(folder)["project"]
    assert project["name"] == f"deltatune-{folder.name}"
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert (folder / "src/deltatune" / folder.name / "py.typed").is_file()
    assert len((folder / project["readme"]).read_text(encoding="utf-8").splitlines()) > 5


@pytest.mark.parametrize("folder", PACKAGES, ids=_name)
def test_the_namespace_belongs_to_no_package(folder):
    assert [path.name for path in (folder / "src/deltatune").iterdir() if path.name != "__pycache__"] == [folder.name]


@pytest.mark.parametrize("folder", PACKAGES, ids=_name)
def test_every_package_is_a_dependency_of_the_workspace(folder):
    workspace = _project(ROOT)
    assert f"deltatune-{folder.name}" in workspace["project"]["dependencies"]
    assert workspace["tool"]["uv"]["package"] is False


@pytest.mark.parametrize("folder", PACKAGES, ids=_name)
def test_the_console_script_resolves(folder):
    (target,) = _project(folder)["project"]["scripts"].values()
    module, _, name = target.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_every_paper_is_found_through_its_entry_point():
    found = {entry.name: entry.load().__name__ for entry in importlib.metadata.entry_points(group="deltatune.papers")}
    assert found == {folder.name: f"deltatune.{folder.name}" for folder in PAPERS}


@pytest.mark.parametrize("folder", PAPERS, ids=_name)
def test_a_paper_names_a_tiny_command_of_its_own(folder):
    assert _project(folder)["tool"]["deltatune"]["tiny-command"][0] == f"deltatune-{folder.name}"


def test_the_page_of_public_names_has_them_all():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for folder in PACKAGES:
        names = getattr(importlib.import_module(f"deltatune.{folder.name}"), "__all__", ())
        own = text.partition(f"\n## deltatune.{folder.name}\n")[2].partition("\n## ")[0]
        assert [name for name in names if f"\n### {name}\n" not in own] == [], "run `uv run python docs/make_api.py`"
