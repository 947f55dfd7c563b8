"""Subspace approximation from solutions on disk to a subspace on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from deltatune.core.backbone import Backbone, Device
from deltatune.core.batches import Batches, BatchSource
from deltatune.core.checkpoint import base_record
from deltatune.core.data import Example
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Feature, TextFormat
from deltatune.core.metrics import higher_is_better
from deltatune.core.processes import Processes
from deltatune.core.resume import REPORTING, has_state
from deltatune.core.reuse import TunedRun
from deltatune.core.run import RunFolder
from deltatune.core.shards import Divided
from deltatune.core.train import Hooks, TrainConfig, fit
from deltatune.subspace import space as spaces
from deltatune.subspace.approximation import Approximation, Sources, places, score_points
from deltatune.subspace.draws import Drawn, collating, exactly, per_of, tagged
from deltatune.subspace.initial import Initial, read_initial
from deltatune.subspace.objective import Draw, Objective, spread
from deltatune.subspace.place import Found
from deltatune.subspace.projections import Projection, draw, parameter_count
from deltatune.subspace.sharding import Lockstep, assembled, draw_part, trained
from deltatune.subspace.solutions import find_solutions, tasks_of
from deltatune.subspace.space import Subspace
from deltatune.subspace.views import attach_each

Dtype = Literal["fp32", "bf16"]
ALONE = Processes(0, 1)
_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Stage1:
    """Everything that decides the outcome of subspace approximation.

    Args:
        init: folder of the initial values.
        solutions: roots of the solutions; several hold several solutions of each task.
        tasks: by name; all below the first root if empty.
        only: names of the deltas; all if empty.
        k: dimensions (published: `low_dimension`).
        objective: what is minimised.
        train: how long and how.
        seed: of the first values of the projections.
        train_lines: examples of each task (published: `train_lines_each_task`); None takes all.
        dev_lines: the same of dev.
        mixtures: seeded mixtures at which the subspace is scored beside the centroid and every delta's own point.
        data_dir: where the tasks' files are now.
        model: where the model is now.
        device: where to compute.
        dtype: in which the projections are kept and trained.
        shard: divide the projections among the processes of a launch; otherwise each holds all.
        max_dev: the first N dev examples of each task at most; unlike with `dev_lines`, none is repeated.
    """

    init: Path
    solutions: tuple[Path, ...]
    tasks: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    k: int = 4
    objective: Objective = field(default_factory=Objective)
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: int = 0
    train_lines: int | None = None
    dev_lines: int | None = None
    mixtures: int = 2
    data_dir: Path | None = None
    model: str | None = None
    device: Device = "auto"
    dtype: Dtype = "fp32"
    shard: bool = True
    max_dev: int | None = None

    def identity(self, tasks: Sequence[str], digests: Mapping[str, Any]) -> dict[str, Any]:
        """Plain values that decide the outcome."""
        known = asdict(self)
        for name in ("device", "init", "solutions", "only", "data_dir", "model", "shard"):
            del known[name]
        for name in REPORTING:
            del known["train"][name]
        return {**known, "tasks": list(tasks), **digests}


@dataclass(frozen=True)
class Loaded:
    """What stage 1 needs, in memory.

    Args:
        initial: values.
        backbone: without deltas.
        found: task -> delta -> solutions.
        sources: forms and differences.
        train: the encoded training examples of each task.
        dev: the dev examples of each task.
        test: the test examples.
    """

    initial: Initial
    backbone: Backbone
    found: Mapping[str, Mapping[str, Sequence[TunedRun]]]
    sources: Sources
    train: Sequence[Sequence[Feature]]
    dev: Sequence[Sequence[Example]]
    test: Sequence[Sequence[Example]]


def opened(config: Stage1) -> tuple[Initial, dict[str, dict[str, list[TunedRun]]], dict[str, Any]]:
    """Initial values and solutions, checked, and the digests of both; no model and no data are loaded.

    Raises:
        DeltatuneError: see `find_solutions`.
    """
    initial = read_initial(config.init, config.only or None)
    tasks = sorted(config.tasks) or tasks_of(config.solutions, list(initial.saved))
    found = find_solutions(config.solutions, tasks, initial)
    digests = {
        "init": initial.digests(),
        "solutions": {task: {n: [run.saved.digest for run in runs] for n, runs in own.items()} for task, own in found.items()},
    }
    return initial, found, digests


def loaded(
    config: Stage1, initial: Initial, found: Mapping[str, Mapping[str, Sequence[TunedRun]]], processes: Processes = ALONE
) -> tuple[Loaded, Subspace]:
    """Model and data in memory, and the subspace with its first values: all of them, or this process's part."""
    backbone = initial.backbone(config.model, config.device, config.train.precision)
    generator = torch.Generator().manual_seed(config.seed)
    sizes = {name: sum(t.numel() for t in saved.weights.values()) for name, saved in initial.saved.items()}
    dtype, projections = _DTYPES[config.dtype], dict[str, Projection]()
    for name, size in sizes.items():
        if config.shard and processes.count > 1:
            projections[name] = draw_part(size, config.k, generator, dtype, backbone.device, processes)
        else:
            projections[name] = draw(size, config.k, generator, dtype=dtype)
    inits = {name: saved.weights for name, saved in initial.saved.items()}
    about = {"settings": {"backbone": initial.backbone_settings()}, "init": initial.digests(), "num_labels": initial.num_labels}
    fresh = Subspace(initial.configs, inits, projections, {}, config.objective, base_record(backbone), about)
    space = fresh.to(backbone.device)
    return gathered(config, initial, found, backbone, space), space


def gathered(
    config: Stage1, initial: Initial, found: Mapping[str, Mapping[str, Sequence[TunedRun]]], backbone: Backbone, space: Subspace
) -> Loaded:
    """The solutions as differences to the initial values, and their tasks' examples.

    Raises:
        DeltatuneError: tasks of several sorts, or a solution does not fit `space`.
    """
    forms, vectors, parts = [], [], []
    for own in found.values():
        run = next(iter(own.values()))[0]
        task = run.task_choice(data_dir=config.data_dir).load()
        form = run.format(backbone, task)
        forms.append(form)
        vectors.append([torch.stack([space.vector(name, each.saved.weights) for each in runs]) for name, runs in own.items()])
        train = form.features(exactly(task.train, config.train_lines))
        parts.append((train, exactly(task.dev, config.dev_lines)[: config.max_dev] if task.dev else [], task.test))
    if len({bool(form.task.regression) for form in forms}) > 1 and not isinstance(forms[0], TextFormat):
        raise DeltatuneError("tasks with classes and tasks with values do not go into one batch; name tasks of one sort")
    sources = Sources(list(found), forms, vectors)
    return Loaded(initial, backbone, found, sources, *zip(*parts, strict=True))


def approximate(
    config: Stage1, inputs: Loaded, space: Subspace, folder: RunFolder, processes: Processes, log: Any = None
) -> Found:
    """Train the projections, keep the subspace in `folder`, and score it; numbers for `run.json`, and records."""
    started = time.perf_counter()
    tuned = attach_each(inputs.backbone, space.configs)
    per = per_of(config.objective.draw, len(inputs.sources.names))
    model = Approximation(space, tuned, inputs.sources, by_tokens=per == "batch" and len(inputs.sources.names) == 1)
    tensors = trained(space.encoders)
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    drawn = _source(config, inputs, per, model.by_tokens)
    source: BatchSource = Lockstep(drawn, inputs.backbone.device) if isinstance(tensors, Divided) else drawn
    judge = Judge(model, inputs, config.mixtures)
    resume = folder.state if has_state(folder.state) else None
    hooks = Hooks(mode=model.train, state_dir=folder.state, log=log)
    evaluate = judge.score if all(inputs.dev) else None
    history = fit(model.loss, tensors, source, config.train, evaluate=evaluate, hooks=hooks, resume_from=resume)
    with torch.no_grad():
        for name, value in history.selected.items():
            tensors[name].copy_(value)
            tensors[name].requires_grad_(False)
        history.selected.clear()  # a copy of everything
        points = {task: all_points(model, number) for number, task in enumerate(inputs.sources.names)}
    whole = replace(space, projections=assembled(space.encoders), points=points)
    processes.lead(partial(spaces.save, folder.path / "subspace", whole))
    del whole
    records = list(judge.records())
    curve = [{"kind": "curve", "split": "dev", "step": step, "value": value} for step, value in history.evaluations]
    step = history.best_step if config.train.select == "best" and history.best_step else history.steps
    facts = {
        "step": step,
        "k": space.k,
        "sizes": {name: own.size for name, own in space.projections.items()},
        "trainable": sum(parameter_count(own.size, space.k) for own in space.projections.values()),
        "final_loss": fmean(history.losses[-50:]),
        "best_dev": history.best_score,
        "rebuilt": {task: model.rebuilt(number) for number, task in enumerate(inputs.sources.names)},
        "spread": {task: spread(found[0]) for task, found in points.items()},
        "seconds": round(time.perf_counter() - started, 3),
        "train_seconds": round(history.seconds, 3),
        "device": str(inputs.backbone.device),
    }
    return facts, [*curve, *records]


def _source(config: Stage1, inputs: Loaded, per: Draw, by_tokens: bool) -> Drawn:
    """The training examples of all tasks and what is drawn for each."""
    form = inputs.sources.forms[0]
    batches = Batches(
        tagged(inputs.train),
        collating(form.collate),
        config.train.batch_size,
        config.train.data_seed,
        config.train.group_by_length,
        config.train.token_budget,
        form.choose,
        form.weigh if by_tokens else None,
    )
    return Drawn(batches, config.train.dropout_seed, config.objective.mixing, per, inputs.sources.counts())


def all_points(model: Approximation, task: int) -> torch.Tensor:
    """The points (N, T, k) of a task; of unequal numbers of solutions those that all deltas have."""
    count = min(model.sources.counts()[task])
    return torch.stack([model.points(task, [number] * len(model.space.names)) for number in range(count)]).detach().cpu()


class Judge:
    """Scores the subspace at fixed places; nothing is drawn, so that training is as it would be without."""

    def __init__(self, model: Approximation, inputs: Loaded, mixtures: int) -> None:
        self.model, self.inputs = model, inputs
        self.places = places(model.space.names, mixtures)
        self.features = [form.features(part) for form, part in zip(inputs.sources.forms, inputs.dev, strict=True)]

    def score(self) -> float:
        """Mean over tasks, deltas and the places between the deltas' own points (of one delta, its own point), on dev."""
        chosen = {name: share for name, share in self.places.items() if name not in self.model.space.names} or self.places
        means = []
        for task, form in enumerate(self.inputs.sources.forms):
            points = self._points(task, chosen)
            found = score_points(self.model.space, self.model.tuned, form, self.inputs.dev[task], points, self.features[task])
            sign = 1 if higher_is_better(form.metric) else -1
            means.append(fmean(sign * scores.value for *_, scores in found))
        return fmean(means)

    def _points(self, task: int, chosen: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            own = self.model.points(task)
            return {name: share.to(own.device) @ own for name, share in chosen.items()}

    def records(self) -> Iterator[dict[str, Any]]:
        """Every place decoded into every delta, on dev and test."""
        for number, (task, form) in enumerate(zip(self.inputs.sources.names, self.inputs.sources.forms, strict=True)):
            points = self._points(number, self.places)
            for split, examples in (("dev", self.inputs.dev[number]), ("test", self.inputs.test[number])):
                if not examples:
                    continue
                for place, name, scores in score_points(self.model.space, self.model.tuned, form, examples, points):
                    shares = [round(share, 6) for share in self.places[place].tolist()]
                    yield {
                        "kind": "point", "task": task, "place": place, "shares": shares, "delta": name, "split": split,
                        **scores.numbers(),
                    }  # fmt: skip
