"""What an experiment is given beside its seed: shared results, and runs that are done once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.core.claims.store import Store

if TYPE_CHECKING:
    from deltatune.core.tune_config import TuneConfig


@dataclass(frozen=True)
class SharedRun:
    """A finished run, as `deltatune tune` leaves one.

    Args:
        path: its folder; `deltatune.core.reuse.open_run` takes it up.
        facts: its run.json.
    """

    path: Path
    facts: dict[str, Any]

    def score(self, split: str = "test") -> float:
        """The task's metric on `split`."""
        return float(self.facts["scores"][split]["value"])


@dataclass(frozen=True)
class Context:
    """Where the experiments of one `reproduce` keep and find results.

    Args:
        store: shared by all claims, seeds and processes; what two experiments both need goes through it.
    """

    store: Store

    def tuned(self, config: TuneConfig) -> SharedRun:
        """The run of `config`, which is tuned where no claim asked for it before.

        Raises:
            DeltatuneError: as `deltatune.core.tuning.tune`.
        """

        def make(target: Path) -> None:
            from deltatune.core.tuning import tune_to

            about = {"command": "deltatune reproduce", "tag": "reproduce"}
            tune_to(
                config,
                target,
                about,
                _CONFIG + json.dumps(config.identity(), indent=2, ensure_ascii=False) + "\n",
                progress=False,
            )

        folder = self.store.folder({"run": config.identity()}, make)
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return SharedRun(folder, facts)


# JSON is YAML; the settings are those of the Python configuration, which a command's options do not match one to one.
_CONFIG = "# A run that claims share: the settings of its TuneConfig.\n"
