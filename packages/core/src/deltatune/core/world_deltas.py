"""How the deltas of the built-in world are tuned, all of `world/t5`, and tuning them again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from deltatune.core import world, world_models
from deltatune.core.backbone import BackboneConfig
from deltatune.core.checkpoint import read, save
from deltatune.core.delta import DeltaConfig, Houlsby, LoRA, Prefix
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate
from deltatune.core.optim import OptimizerConfig
from deltatune.core.run_facts import described
from deltatune.core.train import Hooks, TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.tuning import prepare, tune_prepared

SOURCES: Mapping[str, tuple[DeltaConfig, float]] = {
    "Houlsby": (Houlsby(width=6, bias=False), 1e-2),
    "LoRA": (LoRA(rank=5, alpha=5), 3e-3),
    "Prefix": (Prefix(length=15, width=None), 0.3),
}
"""The deltas of the world and their learning rates: 11,520 trained values each on `world/t5`."""

KINDS_APART = ("sentiment", "topic", "aspect", "relation", "inference", "paraphrase")
APART: Mapping[str, int] = {f"{kind}-0": seed for seed, kind in enumerate(KINDS_APART, start=1)}
"""Task -> seed of the initial values of its further Houlsby delta, `Houlsby-apart`: the others of a kind have one start."""


def delta_names() -> list[str]:
    """`deltas/TASK/KIND` of all deltas of the world."""
    found = [f"deltas/{task}/{kind}" for task in world.TASKS for kind in SOURCES]
    return found + [f"deltas/{task}/Houlsby-apart" for task in APART]


def source_config(task: str, kind: str, seed: int = 0) -> TuneConfig:
    """How the delta `task`/`kind` of the world is tuned: 200 updates of 32, the last weights.

    Args:
        task: of the world.
        kind: of `SOURCES`, or `Houlsby-apart`.
        seed: of the order of the examples; the start is the same for all but those apart.

    Raises:
        DeltatuneError: there is no such delta.
    """
    if f"deltas/{task}/{kind}" not in delta_names():
        raise DeltatuneError(f"no delta deltas/{task}/{kind} in the world; there are TASK/KIND for KIND {', '.join(SOURCES)}")
    delta, rate = SOURCES[kind.removesuffix("-apart")]
    train = TrainConfig(
        OptimizerConfig(lr=rate, warmup=0.06),
        steps=200,
        batch_size=32,
        group_by_length=True,
        select="last",
        eval_every=10**9,
        log_every=10**9,
        data_seed=seed,
        dropout_seed=seed,
    )
    return TuneConfig(
        BackboneConfig("world/t5", form="text", device="cpu"),
        TaskChoice(f"world/{task}", max_dev=200),
        (delta,),
        train,
        init_seed=APART[task] if kind.endswith("-apart") else 0,
    )


def build_delta(task: str, kind: str, shelf: Path) -> float:
    """Tune one delta of the world as `shelf`/`task`/`kind`, in fp16; returns its test score. One that is there is kept.

    Raises:
        DeltatuneError: there is no such delta.
    """
    folder = shelf / task / kind
    if not (folder / "deltatune.json").is_file():
        config = source_config(task, kind)
        tuned, form, found = prepare(config)
        tune_prepared(config, tuned, form, found, Hooks(progress=False))
        values = {name: tensor.half() for name, tensor in tuned.weights().items()}
        tuned.load({name: tensor.float() for name, tensor in values.items()})  # what is scored is what is kept
        scores = evaluate(tuned, form, found.test).numbers()
        save(
            folder,
            tuned,
            {**described(config, tuned, form, found), "step": config.train.steps, "scores": {"test": scores}},
            values,
        )
    return float(read(folder).about["scores"]["test"]["value"])


def compared_delta(task: str, kind: str, shelf: Path) -> str:
    """One line: whether a delta that was made again is the one of the package."""
    made, shipped = read(shelf / task / kind), read(world_models.DELTAS / task / kind)
    name = f"deltas/{task}/{kind}"
    if all(torch.equal(tensor, shipped.weights[key]) for key, tensor in made.weights.items()):
        return f"{name}: equal to the package's"
    own, other = (float(found.about["scores"]["test"]["value"]) for found in (made, shipped))
    apart = max(float((tensor - shipped.weights[key]).abs().max()) for key, tensor in made.weights.items())
    return f"{name}: values differ by {apart:.2g} at most; test score {own:.4f}, the package's {other:.4f}"
