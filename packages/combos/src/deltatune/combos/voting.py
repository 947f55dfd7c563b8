"""Finished runs taken up again, and what several of them say together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from deltatune.combos.contexts import ContextFormat, Demonstrations, asked_with
from deltatune.combos.demonstrations import average
from deltatune.combos.results import Row
from deltatune.combos.vote import best_by, predictions
from deltatune.core import checkpoint
from deltatune.core.backbone import Backbone, BackboneConfig, Device
from deltatune.core.data import Example, Task
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.formats import Format, PromptFormat, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.metrics import higher_is_better, score
from deltatune.core.tune_config import TaskChoice

Split = Literal["dev", "test"]
_ROWS = 32


@dataclass
class Reopened:
    """Runs taken up again; each base is loaded once.

    Args:
        device: where to compute.
    """

    device: Device = "auto"
    _bases: dict[str, Backbone] = field(default_factory=dict, repr=False)

    @contextmanager
    def run(self, path: Path) -> Iterator[tuple[Tuned, Format, Task]]:
        """The model as the run in `path` left it, how it was asked, and its examples.

        Raises:
            DeltatuneError: base, data or sentence vectors are gone or others.
        """
        config = read_json(path / "run.json")["config"]
        task = choice_of(config["task"]).load()
        backbone = self._base(config["backbone"], 1 if task.regression else max(1, len(task.labels)))
        saved = checkpoint.read(path) if (path / "delta").is_dir() else None
        deltas = () if saved is None else saved.configs
        tuned = attach(backbone, head=False) if saved is None else checkpoint.attach_saved(saved, backbone)
        try:
            form = build_format(backbone, task, config["task"]["max_length"], deltas)
            if (shown := config["method"].get("demonstrations")) is not None:
                form = asked_with(form, Demonstrations.of(shown))
            yield tuned, form, task
        finally:
            tuned.detach()

    def _base(self, settings: Mapping[str, Any], width: int) -> Backbone:
        config = BackboneConfig(**{**settings, "device": self.device, "sites": settings["sites"] and Path(settings["sites"])})
        key = repr((config, width))
        if key not in self._bases:
            self._bases[key] = load_backbone(config, num_labels=width)
        return self._bases[key]


def choice_of(settings: Mapping[str, Any]) -> TaskChoice:
    """The examples that a run's settings name."""
    found = {name: value for name, value in settings.items() if value is not None}
    return TaskChoice(**{**found, **({"data_dir": Path(found["data_dir"])} if "data_dir" in found else {})})


def class_logits(tuned: Tuned, form: Format, examples: Sequence[Example]) -> Tensor:
    """Logits of the classes (N, C), means over contexts where there are several; of a regression the values (N,)."""
    features, found = form.features(examples), []
    tuned.eval()
    with torch.inference_mode():
        for start in range(0, len(features), _ROWS):
            batch = form.collate(features[start : start + _ROWS])
            logits = tuned({name: tensor.to(tuned.backbone.device) for name, tensor in batch.items()}).cpu()
            if form.task.regression:
                found.append(torch.tensor(form.predict(logits), dtype=torch.float64))
                continue
            logits = average(logits, form.how.contexts) if isinstance(form, ContextFormat) else logits
            found.append((logits[:, form.words] if isinstance(form, PromptFormat) else logits).double())
    return torch.cat(found)


def electors(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, dict[str, Row]]:
    """Seed -> voter -> its run with the best dev score; voters are runs that `keys` tell apart.

    Raises:
        DeltatuneError: several tasks, a single voter, or one that is missing in a seed.
    """
    tasks = sorted({str(row.facts["task"]) for row in rows})
    if len(tasks) > 1:
        raise DeltatuneError(f"a vote is on one task, and the runs have {', '.join(tasks)}; give --where task=...")
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        name = ", ".join(str(row.facts[key]) for key in keys)
        groups.setdefault(row.trial.seed, {}).setdefault(name, []).append(row)
    sign = 1 if higher_is_better(rows[0].metric) else -1
    names = list(dict.fromkeys(name for own in groups.values() for name in own))
    for seed, own in groups.items():
        missing = [name for name in names if name not in own]
        if missing:
            raise DeltatuneError(f"seed {seed} has no run of {missing[0]}, other seeds have; make it, or leave it out by --where")
    if len(names) < 2:
        raise DeltatuneError(f"{names[0]} is the only voter; give more --runs, or tell runs apart by other --voters")
    return {seed: {name: own[name][_best(own[name], sign)] for name in names} for seed, own in groups.items()}


def _best(rows: Sequence[Row], sign: int) -> int:
    number = best_by({place: sign * row.trial.dev for place, row in enumerate(rows)})
    return int(str(number))


def hold(voters: Mapping[str, Row], reopened: Reopened) -> list[dict[str, Any]]:
    """Score every voter, and all of them together, on dev and test; one line for each voter and split, `all` last.

    Raises:
        DeltatuneError: the voters were not asked about the same examples.
    """
    found: dict[Split, dict[str, Tensor]] = {"dev": {}, "test": {}}
    asked: dict[Split, list[Any]] = {}
    metric = ""
    for name, row in voters.items():
        if row.path is None:
            raise DeltatuneError(f"{name}: a row without a folder cannot vote")
        with reopened.run(row.path) as (tuned, form, task):
            metric = form.metric
            for split in found:
                examples = getattr(task, split)
                own = [examples, form.references(examples)]
                if asked.setdefault(split, own) != own:
                    raise DeltatuneError(f"{row.path}: its {split} examples are not those of the others; vote on the same sample")
                if examples:
                    found[split][name] = class_logits(tuned, form, examples)
    rows = []
    for split, logits in found.items():
        everyone = {**{name: [one] for name, one in logits.items()}, "all": list(logits.values())}
        for name, parts in everyone.items() if logits else ():
            value = score(metric, predictions(parts), asked[split][1]).value
            rows.append({"voter": name, "split": split, "metric": metric, "value": value, "n": len(asked[split][1])})
    return rows
