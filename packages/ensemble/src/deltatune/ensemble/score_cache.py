"""Scores that were measured already, kept by what they depend on: a further source costs one column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.core.files import read_json, write_json
from deltatune.core.run import digest_of
from deltatune.ensemble.bench import Prepared
from deltatune.ensemble.modules import By
from deltatune.ensemble.scoring import WITH_REFERENCE, ByModule, score_sources

CACHE = 1  # changes where scores of equal settings change


class ScoreCache:
    """One file for each (target, source), with a score for each measure and setting."""

    def __init__(self, folder: Path) -> None:
        """Keep files below `folder`."""
        self.folder = folder
        self.measured = 0

    def scores(self, prepared: Prepared, measures: Sequence[str], by: By) -> dict[str, dict[str, ByModule]]:
        """Measure -> source -> module -> score, of all sources; what is not kept yet is measured in one pass."""
        found: dict[str, dict[str, ByModule]] = {name: {} for name in measures}
        missing: dict[tuple[str, ...], list[str]] = {}
        for source in prepared.sources:
            kept = self._read(prepared, source)
            keys = {name: self.key(prepared, source, name, by) for name in measures}
            for name, key in keys.items():
                if key in kept:
                    found[name][source] = kept[key]
            if left := tuple(name for name, key in keys.items() if key not in kept):
                missing.setdefault(left, []).append(source)
        for names, sources in missing.items():
            weights = {source: prepared.complete(source) for source in sources}
            fresh = score_sources(prepared.target, weights, names, by)
            self.measured += len(names) * len(sources)
            for source in sources:
                new = {self.key(prepared, source, name, by): fresh[name][source] for name in names}
                write_json(self._file(prepared, source), {**self._read(prepared, source), **new})
                for name in names:
                    found[name][source] = fresh[name][source]
        order = list(prepared.sources)
        return {name: {source: rows[source] for source in order} for name, rows in found.items()}

    def key(self, prepared: Prepared, source: str, measure: str, by: By) -> str:
        """The name of a score: the measure, and a digest of everything that it depends on."""
        target = prepared.target
        about: dict[str, Any] = {"cache": CACHE, "measure": measure, "by": by, **target.budget.parts(measure)}
        about |= {"source": prepared.sources[source].digest, "base": target.tuned.backbone.digest, "head": prepared.head}
        about |= {"data": target.task.digest, "max_length": target.form.max_length, "form": target.tuned.backbone.form}
        about["precision"] = target.tuned.backbone.precision
        if measure in WITH_REFERENCE and target.reference is not None:
            about["reference"] = {name: float(value.double().norm()) for name, value in target.reference.items()}
        return f"{measure} {digest_of(about)}"

    def _file(self, prepared: Prepared, source: str) -> Path:
        return self.folder / prepared.name / f"{source}.json"

    def _read(self, prepared: Prepared, source: str) -> Mapping[str, ByModule]:
        file = self._file(prepared, source)
        return dict(read_json(file)) if file.is_file() else {}
