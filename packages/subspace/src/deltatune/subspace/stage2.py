"""Subspace optimization of a task through every source delta, transfer into the others, and the controls beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core.data import Task
from deltatune.core.delta import Head, Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, write_json
from deltatune.core.formats import Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.metrics import higher_is_better
from deltatune.core.reuse import open_run
from deltatune.core.tune_config import TuneConfig
from deltatune.core.tuning import tune_to
from deltatune.subspace.approximation import score_points
from deltatune.subspace.coordinates import Coordinates, Decoders, First, used_space
from deltatune.subspace.place import PROGRAM
from deltatune.subspace.relative import chance_of, corrected, relative
from deltatune.subspace.solutions import require_kind
from deltatune.subspace.space import Subspace
from deltatune.subspace.splits import folder_of
from deltatune.subspace.views import attach_each

CONTROLS = ("random", "zero", "mean", "head")


@dataclass(frozen=True)
class Stage2:
    """What is optimized, and what is put beside it.

    Args:
        space: the subspace.
        config: of one run: model, task, training; its deltas and task are set for each run.
        tasks: by name.
        sources: deltas that a point is found through.
        targets: deltas that it is decoded into.
        lrs: learning rates, of which the one with the best dev score of the source is taken.
        controls: of `CONTROLS`.
        originals: where the original solution of a task and a delta is, for relative performance.
        seed: of the first points and of random decoders.
        out_dir: root of the runs.
        first: where a point begins.
    """

    space: Subspace
    config: TuneConfig
    tasks: Sequence[str]
    sources: Sequence[str]
    targets: Sequence[str]
    lrs: Sequence[float]
    out_dir: Path
    controls: Sequence[str] = CONTROLS
    originals: Callable[[str, str], Path] | None = None
    seed: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    first: First = "random"

    def run(self, task: str, source: str, decoders: Decoders) -> tuple[Path, dict[str, Any]]:
        """Tune with every rate, or take up what is there; the folder and facts of the best one on dev."""
        deltas = tuple(config for config in self.space.configs[source] if not isinstance(config, Head))
        base = replace(self.config, task=replace(self.config.task, task=task), deltas=deltas)
        best: tuple[float, Path, dict[str, Any]] | None = None
        for lr in self.lrs:
            train = replace(base.train, optimizer=replace(base.train.optimizer, lr=lr))
            path = (
                self.out_dir / "runs" / folder_of(task) / (source if decoders == "trained" else f"{source}-random") / f"lr-{lr:g}"
            )
            method = Coordinates(self.space, source, self.seed, decoders, self.first)
            about = {"command": f"{PROGRAM} optimize", **self.about}
            facts = tune_to(replace(base, train=train), path, about, CONFIG_OF_RUN, method=method)
            rank = _rank(facts["scores"].get("dev"))
            if best is None or rank > best[0]:
                best = (rank, path, facts)
        if best is None:
            raise DeltatuneError("no learning rate given; give --lrs '[0.05]'")
        return best[1], best[2]


def _rank(dev: Mapping[str, Any] | None) -> float:
    """The score on dev, the higher the better; below all others where there is none."""
    if dev is None or dev["value"] is None or math.isnan(dev["value"]):
        return -math.inf
    return (1 if higher_is_better(dev["metric"]) else -1) * float(dev["value"])


CONFIG_OF_RUN = "# One run of `deltatune-subspace optimize`; the options are in the config.yaml of the folder above runs/.\n"


@dataclass
class Scorer:
    """The model with every target delta in memory, for one task at a time."""

    space: Subspace
    tuned: Mapping[str, Tuned]

    @cached_property
    def heads(self) -> Subspace | None:
        """The subspace of which only the task heads are decoded; None where the deltas have none."""
        found = {name: tuned.head_names for name, tuned in self.tuned.items()}
        return self.space.only(found) if all(found.values()) else None

    def scores(
        self, space: Subspace, form: Format, task: Task, points: Mapping[str, Tensor], without: str = ""
    ) -> list[dict[str, Any]]:
        """Records of every point decoded into every target but `without`, on dev and test."""
        targets, found = {name: tuned for name, tuned in self.tuned.items() if name != without}, []
        for split, examples in (("dev", task.dev), ("test", task.test)):
            if examples:
                for place, name, scores in score_points(space, targets, form, examples, points):
                    found.append({"place": place, "target": name, "split": split, **scores.numbers()})
        return found


def scorer_of(stage: Stage2) -> Scorer:
    """Load the model once, with each target attached to a view of it.

    Raises:
        DeltatuneError: another model than the subspace's.
    """
    backbone = load_backbone(stage.config.backbone, num_labels=stage.space.about.get("num_labels"))
    stage.space.require_base(backbone)
    space = stage.space.to(backbone.device)
    return Scorer(space, attach_each(backbone, {name: space.configs[name] for name in stage.targets}))


def carry_out(stage: Stage2) -> Iterator[dict[str, Any]]:
    """Everything, as records; what is there is taken up, so that an interrupted call goes on."""
    scorer = scorer_of(stage)
    for task_name in stage.tasks:
        choice = replace(stage.config.task, task=task_name)
        task = choice.load()
        backbone = next(iter(scorer.tuned.values())).backbone
        configs = tuple(config for own in stage.space.configs.values() for config in own)
        form = build_format(backbone, task, choice.max_length, configs)
        beside = _originals(stage, task_name, task)
        beside = beside if higher_is_better(form.metric) else {}  # a share of an error says nothing
        chance = {split: chance_of(form, part) for split, part in (("dev", task.dev), ("test", task.test)) if part}
        common = {"task": task_name, "seed": stage.seed, "k": stage.space.k}
        for record in _of_task(stage, scorer, form, task, task_name):
            original = beside.get(record["target"], {}).get(record["split"])
            level = chance[record["split"]]
            yield {
                **common, **record, "original": original, "chance": level,
                "relative": relative(record["value"], original), "corrected": corrected(record["value"], original, level),
            }  # fmt: skip


def _of_task(stage: Stage2, scorer: Scorer, form: Format, task: Task, name: str) -> Iterator[dict[str, Any]]:
    fixed: dict[str, Tensor] = {}
    if "zero" in stage.controls:
        fixed["zero"] = torch.zeros(stage.space.k)
    if "mean" in stage.controls and stage.space.points:
        fixed["mean"] = stage.space.mean_point()
    device = next(iter(scorer.space.starts.values())).device
    if fixed:
        moved = {place: point.to(device) for place, point in fixed.items()}
        for record in scorer.scores(scorer.space, form, task, moved):
            yield {"kind": record.pop("place"), "source": None, **record}
    for source in stage.sources:
        for decoders in ("trained", "random") if "random" in stage.controls else ("trained",):
            path, facts = stage.run(name, source, decoders)
            point = torch.tensor(facts["found"]["coordinates"])
            space = used_space(stage.space, decoders, stage.seed).to(device)
            own = [{"target": source, "split": split, **scores} for split, scores in facts["scores"].items()]
            moved_on = _decoded(path, scorer, space, form, task, point.to(device), without=source)
            for record in [*(own if source in stage.targets else ()), *moved_on]:
                kind = "optimization" if record["target"] == source else "transfer"
                kind = kind if decoders == "trained" else f"random {kind}"
                yield {"kind": kind, "source": source, **record, "lr": facts["config"]["learning_rate"], "run": path.as_posix()}
            if decoders == "trained" and "head" in stage.controls and scorer.heads is not None:
                for record in _decoded(path, scorer, scorer.heads, form, task, point.to(device), "decoded-head.json"):
                    kind = "optimization" if record["target"] == source else "transfer"
                    yield {"kind": f"head {kind}", "source": source, **record, "run": path.as_posix()}


def _decoded(
    path: Path, scorer: Scorer, space: Subspace, form: Format, task: Task, point: Tensor, name: str = "decoded.json",
    without: str = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """The scores of a run's point in every target but `without`, kept beside the run in file `name`."""
    file, key = path.parent / name, [task.digest, point.tolist(), list(scorer.tuned), without]
    if file.is_file() and (there := read_json(file)).get("key") == key:
        return [dict(record) for record in there["records"]]
    records = scorer.scores(space, form, task, {"found": point}, without)
    for record in records:
        del record["place"]
    write_json(file, {"key": key, "records": records})
    return records


def require_originals(stage: Stage2) -> None:
    """Require an original solution of every task and target.

    Raises:
        DeltatuneError: one is missing, not finished, or of another delta or base than the subspace's.
    """
    wanted = [(task, target) for task in stage.tasks for target in stage.targets]
    for path, target in [(stage.originals(task, target), target) for task, target in wanted if stage.originals]:
        if not (path / "run.json").is_file():
            raise DeltatuneError(f"{path}: no original solution; make it with `train-delta`, or leave --originals out")
        if read_json(path / "run.json").get("status") != "finished":
            raise DeltatuneError(f"{path}: the original is not finished; give the command that made it again")
        require_kind(open_run(path), stage.space.configs[target], stage.space.base, f"{target} of the subspace")


def _originals(stage: Stage2, name: str, task: Task) -> dict[str, dict[str, float]]:
    """Target -> split -> score of its original solution on the same examples; empty without a root.

    Raises:
        DeltatuneError: an original was scored on other examples.
    """
    found = {}
    for path, target in [(stage.originals(name, target), target) for target in stage.targets if stage.originals]:
        facts = read_json(path / "run.json")
        if facts["data"]["digest"] != task.digest:
            raise DeltatuneError(
                f"{path}: the original was tuned and scored on other examples; give the options of the task that it was made with"
            )
        found[target] = {split: numbers["value"] for split, numbers in facts["scores"].items()}
    return found
