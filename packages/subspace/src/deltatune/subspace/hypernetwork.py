"""Hypernetworks: a shared point and the decoders of every delta, learned on one task with no solutions to approximate.

The published program's second path (specification 3.8). T deltas share one point I (k,), drawn N(0, 0.02^2), and

    L = sum_t CE(model with start_t + F_t(I))

Small deltas: F_t(I) = V_t I with V ~ N(0, 0.02^2), and no initial values are added (start 0); a prefix, here keys and values
themselves, has a trained start, its bias. Differences that fine-tuning makes (`Full`, `Modules`, `BitFit`): start 0 and a
structured random projection of every tensor whose scales G are trained, or a fixed matrix N(0, 0.01^2). I, V, starts of prefixes
and G are trained together. A task head has no place here: it would be as many new values as a delta, made of the same k numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from deltatune.core.batches import Batch
from deltatune.core.checkpoint import base_record
from deltatune.core.data import Example
from deltatune.core.delta import Prefix, Tuned, forward_with
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores
from deltatune.core.formats import Format, build_format
from deltatune.core.metrics import higher_is_better
from deltatune.core.processes import Processes
from deltatune.core.resume import has_state
from deltatune.core.run import RunFolder
from deltatune.core.train import Hooks, fit
from deltatune.core.tune_config import TuneConfig
from deltatune.core.weights import Weights, flatten, layout, unflatten
from deltatune.subspace import space as spaces
from deltatune.subspace.approximation import score_points
from deltatune.subspace.decoders import Linear, Structured, draw_structured
from deltatune.subspace.initial import Initial
from deltatune.subspace.intrinsic import draw_dense
from deltatune.subspace.objective import Objective
from deltatune.subspace.place import Found
from deltatune.subspace.projections import STD
from deltatune.subspace.space import Subspace
from deltatune.subspace.views import attach_each

Differences = Literal["fastfood", "dense"]


@dataclass(frozen=True)
class Hypernetwork:
    """Everything that decides the outcome, beside the initial values.

    Args:
        config: task, data and training; its deltas are not used.
        k: numbers of the shared point (published: `intrinsic_dim` 8).
        differences: how a point becomes the difference of fine-tuning (published: `projection_type`).
        seed: of the first values.
    """

    config: TuneConfig
    k: int = 8
    differences: Differences = "fastfood"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.k < 1:
            raise DeltatuneError(f"a hypernetwork has at least 1 number, got k {self.k}")

    def identity(self, initial: Initial) -> dict[str, Any]:
        """Plain values that decide the outcome: of the initial values the settings, since the values are not used."""
        known = self.config.identity()
        settings = {name: [config.describe() for config in own] for name, own in initial.configs.items()}
        base = next(iter(initial.saved.values())).base
        task = {name: value for name, value in known["task"].items() if name != "data_dir"}
        own = {"k": self.k, "differences": self.differences, "seed": self.seed}
        return {**own, "deltas": settings, "base": base["digest"], "form": base["form"], "task": task, "train": known["train"]}


def require_mapped(initial: Initial) -> None:
    """Require deltas that the maps are for.

    Raises:
        DeltatuneError: a task head, or a prefix that is made through an inner width.
    """
    for name, saved in initial.saved.items():
        if saved.head:
            raise DeltatuneError(
                f"{initial.path / name} has a task head, which is not made of k numbers; use --form prompt or text"
            )
        if any(isinstance(config, Prefix) and config.width is not None for config in saved.configs):
            where = f"{initial.path / name}: the numbers become keys and values themselves"
            raise DeltatuneError(f"{where}; make the prefix with --deltas.width null")


@dataclass
class Maps:
    """The point and the decoders in training.

    Args:
        tuned: for each delta the model with it alone.
        templates: for each delta its tensors; their names and shapes are used.
        decoders: of each.
        starts: of each, as vectors (D,).
        point: I (k,).
        fixed: names of the deltas whose decoder is not trained.
    """

    tuned: Mapping[str, Tuned]
    templates: Mapping[str, Weights]
    decoders: dict[str, Linear | Structured]
    starts: dict[str, Tensor]
    point: Tensor
    fixed: frozenset[str]

    def trained(self) -> dict[str, Tensor]:
        """What is trained: the point, V or G of each delta, and the starts of prefixes."""
        found = {"coordinates": self.point}
        for name, own in self.decoders.items():
            if name not in self.fixed:
                field = "decoder_weight" if isinstance(own, Linear) else "scale"
                found[f"{name}.{field}"] = getattr(own, field)
            if has_bias(self.tuned[name]):
                found[f"{name}.start"] = self.starts[name]
        return found

    def loss(self, form: Format, batch: Batch) -> Tensor:
        """The sum of the task losses of all deltas at the shared point, ()."""
        losses = []
        for name, tuned in self.tuned.items():
            vector = self.starts[name] + self.decoders[name].decode(self.point)
            weights = unflatten(vector, self.templates[name], input_major=True)
            losses.append(form.loss(forward_with(tuned, weights)(batch), batch))
        return torch.stack(losses).sum()

    def switch(self, training: bool) -> None:
        """Dropout on or off."""
        for model in self.tuned.values():
            model.train(training)

    def space(self, initial: Initial, task: str, about: Mapping[str, Any]) -> Subspace:
        """The subspace, which `optimize` can use on other tasks; the task's deltas all have the shared point."""
        backbone = next(iter(self.tuned.values())).backbone
        inits = {name: unflatten(self.starts[name].detach(), own, input_major=True) for name, own in self.templates.items()}
        points = self.point.detach().expand(1, len(self.tuned), -1).clone()
        return Subspace(initial.configs, inits, self.decoders, {task: points}, Objective(), base_record(backbone), about)


def is_difference(tuned: Tuned) -> bool:
    """Whether a delta is a difference to the model's own values, as that of fine-tuning is."""
    return all(delta.relative for delta in tuned.kinds())


def has_bias(tuned: Tuned) -> bool:
    """Whether the start is trained: of prefixes, which the published program makes with a bias."""
    return any(isinstance(delta.config, Prefix) for delta in tuned.kinds())


def draw_maps(setup: Hypernetwork, initial: Initial, tuned: Mapping[str, Tuned]) -> Maps:
    """The first values, drawn from the seed on the CPU, on the model's device and ready to be trained."""
    generator = torch.Generator().manual_seed(setup.seed)
    device = next(iter(tuned.values())).backbone.device
    point = (torch.randn(setup.k, generator=generator) * STD).to(device)
    decoders: dict[str, Linear | Structured] = {}
    templates = {name: saved.weights for name, saved in initial.saved.items()}
    starts, fixed = {}, set()
    for name, model in tuned.items():
        lengths = [row.end - row.start for row in layout(templates[name], True)]
        if not is_difference(model):
            decoders[name] = Linear(torch.randn(sum(lengths), setup.k, generator=generator) * STD).to(device)
        elif setup.differences == "dense":
            decoders[name] = Linear(draw_dense(sum(lengths), setup.k, generator)).to(device)
            fixed.add(name)
        else:
            decoders[name] = draw_structured(lengths, setup.k, generator).to(device)
        starts[name] = torch.zeros_like(flatten(templates[name], input_major=True), device=device)
    maps = Maps(tuned, templates, decoders, starts, point, frozenset(fixed))
    for tensor in maps.trained().values():
        tensor.requires_grad_(True)
    return maps


def learn(setup: Hypernetwork, initial: Initial, folder: RunFolder, processes: Processes, log: Any = None) -> Found:
    """Train point and decoders, keep the subspace in `folder`, and score it; numbers for `run.json`, and records."""
    config = setup.config
    task = config.task.load()
    backbone = initial.backbone(config.backbone.model, config.backbone.device, config.train.precision)
    tuned = attach_each(backbone, initial.configs)
    form = build_format(backbone, task, config.task.max_length, tuple(c for own in initial.configs.values() for c in own))
    maps = draw_maps(setup, initial, tuned)
    tensors = maps.trained()
    batches = config.train.batches(form.features(task.train), form.collate, form.choose, form.weigh)
    about = {"settings": {"backbone": initial.backbone_settings()}, "init": initial.digests(), "num_labels": initial.num_labels}

    def scored(examples: Sequence[Example]) -> list[tuple[str, Scores]]:
        space, point = maps.space(initial, config.task.task, about), {"coordinates": maps.point.detach()}
        return [(name, scores) for _, name, scores in score_points(space, tuned, form, examples, point)]

    def evaluate() -> float:
        sign = 1 if higher_is_better(form.metric) else -1
        return fmean(sign * scores.value for _, scores in scored(task.dev))

    resume = folder.state if has_state(folder.state) else None
    hooks = Hooks(mode=maps.switch, state_dir=folder.state, log=log)
    loss = partial(maps.loss, form)
    history = fit(loss, tensors, batches, config.train, evaluate=evaluate if task.dev else None, hooks=hooks, resume_from=resume)
    with torch.no_grad():
        for name, value in history.selected.items():
            tensors[name].copy_(value)
    for tensor in tensors.values():
        tensor.requires_grad_(False)
    processes.lead(partial(spaces.save, folder.path / "subspace", maps.space(initial, config.task.task, about)))
    step = history.best_step if config.train.select == "best" and history.best_step else history.steps
    facts = {
        "step": step,
        "k": setup.k,
        "sizes": {name: own.size for name, own in maps.decoders.items()},
        "trainable": sum(tensor.numel() for tensor in tensors.values()),
        "final_loss": fmean(history.losses[-50:]),
        "train_seconds": round(history.seconds, 3),
        "device": str(backbone.device),
    }
    records = [{"kind": "curve", "split": "dev", "step": step, "value": value} for step, value in history.evaluations]
    for split, part in (("dev", task.dev), ("test", task.test)):
        for name, scores in scored(part) if part else ():
            records.append({"kind": "point", "task": config.task.task, "delta": name, "split": split, **scores.numbers()})
    return facts, records
