"""Stage 1 as it is written down, and as deltatune does it, on the same projections and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from deltatune.core.backbone import BackboneConfig
from deltatune.core.batches import Batch, Batches
from deltatune.core.data import Task
from deltatune.core.delta import DeltaConfig, Houlsby, LoRA, Prefix, Tuned, attach
from deltatune.core.formats import Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.weights import Weights
from deltatune.subspace.approximation import Approximation, Sources
from deltatune.subspace.draws import EXTRA, Drawn, collating, per_of, tagged
from deltatune.subspace.objective import Objective, encode_all, reconstructions
from deltatune.subspace.projections import draw
from deltatune.subspace.space import Subspace
from deltatune.subspace.views import attach_each

Precision = Literal["fp32", "bf16"]
LORA = LoRA(rank=8)
DELTAS: dict[str, DeltaConfig] = {"houlsby": Houlsby(width=8, bias=False), "lora": LORA, "prefix": Prefix(length=36, width=12)}


class Straightforward:
    """Stage 1 as it is written down: for every draw a forward pass of each delta's own model, LoRA multiplied out."""

    def __init__(self, ours: Approximation, model: str) -> None:
        """A model for each delta; LoRA's is the plain one."""
        self.ours, self.models = ours, {}
        for name, configs in ours.space.configs.items():
            backbone = load_backbone(BackboneConfig(model, form="head"), num_labels=2)
            self.models[name] = backbone.model.requires_grad_(False) if name == "lora" else attach(backbone, *configs)

    def train(self, training: bool) -> None:
        """Switch dropout."""
        for model in self.models.values():
            model.train(training)

    def loss(self, batch: Batch) -> Tensor:
        """The same number as `Approximation.loss`."""
        space, sources = self.ours.space, self.ours.sources
        value, projections = torch.zeros(()), list(space.projections.values())
        for number in sorted(set(batch["draw"].tolist())):
            rows = torch.nonzero(batch["draw"] == number).flatten()
            task, solution = int(batch["task"][rows[0]]), batch["solution"][rows[0]].tolist()
            vectors = [found[i] for found, i in zip(sources.vectors[task], solution, strict=True)]
            points = encode_all(projections, vectors, space.objective)
            rebuilt = reconstructions(space.objective.reconstruction, projections, vectors, points)
            part = {name: tensor[rows] for name, tensor in batch.items() if name not in EXTRA}
            losses = [
                sources.forms[task].loss(self._logits(name, space.decode(name, point), part), part)
                for name, point in zip(space.names, batch["shares"][rows[0]] @ points, strict=True)
            ]
            own = space.objective.weight * rebuilt.sum() + torch.stack(losses).sum()
            value = value + own * (len(rows) / len(batch["draw"]))
        return value

    def _logits(self, name: str, weights: Weights, batch: Batch) -> Tensor:
        model = self.models[name]
        if isinstance(model, Tuned):
            logits: Tensor = functional_call(model, {model._names[key]: value for key, value in weights.items()}, (batch,))
            return logits
        held, values = dict(model.named_parameters()), {}
        for key, value in weights.items():
            path, _, part = key.rpartition(".lora_")
            if part == "A.weight":
                update = weights[f"{path}.lora_B.weight"] @ value
                values[f"{path}.weight"] = held[f"{path}.weight"] + LORA.alpha / LORA.rank * update
            elif not path:
                values[key] = value
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return torch.as_tensor(functional_call(model, values, (), inputs).logits)


@dataclass
class Bench:
    """Both forms on the same projections, and their batches."""

    ours: Approximation
    forms: Sequence[Format]
    tasks: Sequence[Task]
    k: int

    def source(self, seed: int, grouped: bool = False) -> Drawn:
        """Batches of 8 with their draws."""
        parts = [form.features(task.train[:800]) for form, task in zip(self.forms, self.tasks, strict=True)]
        inner = Batches(tagged(parts), collating(self.forms[0].collate), 8, seed, grouped)
        return Drawn(inner, seed, "stick", per_of("auto", len(self.tasks)), self.ours.sources.counts())


def build(model: str, tasks: Sequence[Task], k: int, precision: Precision = "fp32") -> Bench:
    """Projections from their first values, and solutions at random places near the initial values."""
    backbone = load_backbone(BackboneConfig(model, form="head", precision=precision), num_labels=2)
    configs = {name: (config,) for name, config in DELTAS.items()}
    tuned, generator = attach_each(backbone, configs), torch.Generator().manual_seed(0)
    inits = {name: own.weights() for name, own in tuned.items()}
    sizes = {name: sum(tensor.numel() for tensor in weights.values()) for name, weights in inits.items()}
    projections = {name: draw(size, k, generator) for name, size in sizes.items()}
    forms = [build_format(backbone, task, 256) for task in tasks]
    vectors = [[torch.randn(1, size, generator=generator) * 0.01 for size in sizes.values()] for _ in tasks]
    space = Subspace(configs, inits, projections, {}, Objective(), {})
    sources = Sources([task.name for task in tasks], forms, vectors)
    return Bench(Approximation(space, tuned, sources, by_tokens=len(tasks) == 1), forms, tasks, k)
