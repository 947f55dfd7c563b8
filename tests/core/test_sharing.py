"""Options written once and taken by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deltatune.core.cli.parsing import options, parse
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import tune, tuning
from deltatune.core.delta import DeltaConfig, LoRA
from deltatune.core.errors import DeltatuneError


def basis(name: str, rate: float = 0.5, folder: Path | None = None) -> None:
    """Something.

    Args:
        name: what it is called,
            at length.
        rate: how fast.
        folder: where.

    Raises:
        ValueError: never.
    """


@sharing(basis, without=("folder",), optional=True)
def several(names: list[str], config_yaml: SavedConfig, **options: Any) -> Any:
    """Several things.

    Args:
        names: those.
        config_yaml: filled in by the program.

    Raises:
        KeyError: always.
    """
    return names, options


def test_options_types_defaults_and_help_are_those_of_the_other():
    assert dict(options(several)) == {"names": list[str], "name": str | None, "rate": float}
    assert parse(several, "x", ["--names", "[a]", "--rate", "2"]) == {
        "names": ["a"],
        "name": None,
        "rate": 2.0,
        "config_yaml": "names:\n- a\nname: null\nrate: 2.0\n",
    }
    assert "name: what it is called,\n        at length.\n" in several.__doc__
    assert "folder" not in several.__doc__
    assert several.__doc__.count("Raises:") == 1


def test_the_function_is_called_as_it_is_written():
    assert several(names=["a"], config_yaml=SavedConfig(""), rate=1.0) == (["a"], {"rate": 1.0})


@sharing(basis)
def one(**options: Any) -> None:
    """One thing."""


def test_what_the_other_requires_stays_required():
    with pytest.raises(DeltatuneError, match="missing --name"):
        parse(one, "x", [])
    assert one.__doc__.startswith("One thing.\n\nArgs:\n    name: what it is called,")


def test_tune_has_the_options_of_tuning():
    shared, own = dict(options(tuning, [DeltaConfig])), dict(options(tune, [DeltaConfig]))
    assert {name: own[name] for name in shared} == shared
    assert {name for name in own if name not in shared} == {"out_dir", "tag", "log_with", "overwrite"}


def test_two_learning_rates_are_refused():
    words = ["--model", "m", "--task", "t", "--delta", "LoRA", "--lr", "1", "--train.optimizer.lr", "2"]
    given = parse(tuning, "x", words, [DeltaConfig])
    assert given["delta"] == LoRA()
    with pytest.raises(DeltatuneError, match=r"--lr 1 and --train.optimizer.lr 2: give one of them"):
        tuning(**given)
