"""The models that come with the package, pre-trained on the generated language: their names and where they are."""

from __future__ import annotations

import difflib
from pathlib import Path

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json

PREFIX = "world/"
"""What stands before the name of a model of the world wherever other models can be named too."""

SHELF = Path(__file__).parent / "world" / "models"
"""One folder for each model, as transformers reads it; `ckpt_STEP` in it are its snapshots."""

DELTAS = SHELF.parent / "deltas"
"""`TASK/KIND`: delta folders, `world/deltas/TASK/KIND` wherever a delta is taken."""

CATALOG = SHELF / "catalog.json"
"""Name -> how it was made: recipe, seed, steps, digest, scores."""


def names() -> list[str]:
    """The names of all models, without `world/`."""
    return sorted(read_json(CATALOG)) if CATALOG.is_file() else []


def folder(name: str) -> Path:
    """The folder of `world/NAME`.

    Raises:
        DeltatuneError: there is no such model.
    """
    short = name.removeprefix(PREFIX)
    there = names()
    if short not in there:
        near = difflib.get_close_matches(short, there, n=3, cutoff=0.3) or there[:3]
        raise DeltatuneError(f"no model {name!r} in the world; near ones: {', '.join(PREFIX + other for other in near)}")
    return SHELF / short


def seed_of(name: str) -> int:
    """The seed of the initial values of `world/NAME`; those of a model that continues another are those of the first."""
    return int(read_json(CATALOG)[folder(name).name]["init_seed"])


def delta_folder(path: Path) -> Path:
    """The folder of `world/deltas/TASK/KIND`; another path unchanged."""
    parts = path.parts
    return DELTAS.joinpath(*parts[2:]) if parts[:2] == ("world", "deltas") and not path.exists() else path
