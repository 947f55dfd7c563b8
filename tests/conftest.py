"""Fixtures every test folder shares: the reference vectors, and the record of which of them were compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """Reads reference vectors and remembers which files were opened by a test."""

    def __init__(self) -> None:
        self.compared: set[str] = set()

    def __call__(self, paper: str, name: str) -> Any:
        """The parsed JSON, or the open npz archive, of `tests/golden/<paper>/<name>`."""
        self.compared.add(f"{paper}/{name}")
        path = GOLDEN / paper / name
        if path.suffix == ".npz":
            return np.load(path, allow_pickle=False)
        return json.loads(path.read_text(encoding="utf-8"))

    def case(self, paper: str, name: str, key: str) -> Any:
        """One entry of a file, recorded by its own name."""
        value = self(paper, name)[key]
        self.compared.add(f"{paper}/{name}::{key}")
        return value


_GOLDEN = Golden()


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The reference vectors (see `tests/golden/README.md`)."""
    return _GOLDEN
