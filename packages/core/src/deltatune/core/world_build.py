"""How the models of the built-in world are made, and making them again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deltatune.core import world, world_models
from deltatune.core.backbone import Backbone, BackboneConfig
from deltatune.core.corpus import Document
from deltatune.core.data import as_text
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, write_json
from deltatune.core.loading import load_backbone
from deltatune.core.optim import OptimizerConfig
from deltatune.core.pretraining import (
    MaskedLM,
    Objective,
    PretrainConfig,
    PretrainHooks,
    Probe,
    Sizes,
    SpanCorruption,
    build_model,
    pretrain,
    save_model,
)
from deltatune.core.run import plain
from deltatune.core.world.draw import Draw

SUPERVISED = tuple(
    f"{kind}-{number}" for kind in ("sentiment", "topic", "inference", "paraphrase", "relation") for number in range(3)
)
"""Tasks whose training examples the last stage of `t5-mixture` sees; never the kinds of `UNSTATED`, nor the fourth domain."""

_FIRST = (0.97, 0.01, 0.01, 0.01)  # shares of the domains in the text of a base


@dataclass(frozen=True)
class Recipe:
    """How a model is made.

    Args:
        form: prompt for an encoder, text for an encoder-decoder.
        sizes: of a model that starts from nothing; of others, of the model they continue.
        mix: share of each domain in the text.
        pretrain: how.
        init_seed: of the initial values.
        start: the model that is continued; None for initial values.
        supervised: tasks of the mixture.
    """

    form: Literal["prompt", "text"]
    sizes: Sizes
    mix: tuple[float, ...]
    pretrain: PretrainConfig
    init_seed: int = 0
    start: str | None = None
    supervised: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """All settings as plain values."""
        settings = {name: value for name, value in vars(self).items() if name != "pretrain"}
        mix = dict(zip(world.DOMAINS, self.mix, strict=True))
        return {**settings, "sizes": asdict(self.sizes), "mix": mix, "pretrain": self.pretrain.identity()}


def _adamw(rate: float, steps: int) -> OptimizerConfig:
    return OptimizerConfig(
        lr=rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, warmup=100 / steps, floor=0.05, max_grad_norm=1.0
    )


def _adafactor(rate: float, steps: int) -> OptimizerConfig:
    return OptimizerConfig(name="adafactor", lr=rate, scale_parameter=True, warmup=100 / steps, floor=0.05, max_grad_norm=1.0)


def _config(objective: Objective, steps: int, optimizer: OptimizerConfig, seed: int, *snapshots: int) -> PretrainConfig:
    return PretrainConfig(objective, steps, optimizer, batch_tokens=2048, snapshots=snapshots or None, seed=seed)


# Longer texts than any document: the positions that prompts and demonstrations shift a text to are learned too.
_MASKED = MaskedLM(pack=False, max_length=64, shift=64, shifted=0.3)
_SPANS = SpanCorruption(pack=False, max_length=64, words=(1, 1, 2, 3, 4, 5))
_WIDE, _NARROW, _T5 = Sizes(3, 96, 3, 384, 160), Sizes(3, 64, 2, 256, 160), Sizes(2, 96, 3, 192)


def _encoder(steps: int, seed: int, *snapshots: int) -> PretrainConfig:
    return _config(_MASKED, steps, _adamw(2e-3, steps), seed, *snapshots)


def _upgrades(first: str, recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The models that continue `first`, each on the text of one more domain."""
    before = first
    for number in (1, 2, 3):
        name = first.replace("m0", f"m{number}")
        mix = tuple(float(place == number) for place in range(4))
        seed = recipe.pretrain.seed + 10 * number
        yield name, replace(recipe, mix=mix, pretrain=_config(_MASKED, 600, _adamw(1e-3, 600), seed), start=before)
        before = name


def _recipes() -> dict[str, Recipe]:
    base = Recipe("prompt", _WIDE, _FIRST, _encoder(3000, 0, 400, 800, 1200))
    other = replace(base, pretrain=_encoder(3000, 1), init_seed=1)
    spans = Recipe("text", _T5, _FIRST, _config(_SPANS, 5000, _adafactor(1.5e-2, 5000), 0, 1500, 3000))
    stage = replace(_config(_SPANS, 700, _adafactor(7e-3, 700), 20), mixture=0.5, mixture_size=80)
    return {
        "m0": base,
        **dict(_upgrades("m0", base)),
        "other-m0": other,
        **dict(_upgrades("other-m0", other)),
        "m0-narrow": replace(base, sizes=_NARROW, pretrain=_config(_MASKED, 3000, _adamw(3e-3, 3000), 0)),
        "t5": spans,
        "t5-mixture": replace(spans, pretrain=stage, start="t5", supervised=SUPERVISED),
    }


RECIPES: Mapping[str, Recipe] = _recipes()
"""Name -> recipe, a model after the one it continues."""


def documents_of(recipe: Recipe) -> Callable[[int], Iterator[Document]]:
    """The text of a recipe: seed -> documents."""
    language, mix = world.Language(), dict(zip(world.DOMAINS, recipe.mix, strict=True))
    return lambda seed: world.documents(language, mix, seed)


def examples_of(recipe: Recipe) -> Callable[[int], Iterator[tuple[str, str]]] | None:
    """The mixture of a recipe: seed -> (source, answer) of training examples, drawn uniformly over tasks."""
    if not recipe.supervised:
        return None
    pools = [[as_text(task, example) for example in task.train] for task in map(world.task, recipe.supervised)]

    def draw_from(seed: int) -> Iterator[tuple[str, str]]:
        draw = Draw("world", "mixture", seed)
        while True:
            source, answers = draw.pick(draw.pick(pools))
            yield source, answers[0]

    return draw_from


def start_of(recipe: Recipe, *shelves: Path) -> Backbone:
    """The model before its first step; one that continues another takes it from the first of `shelves` that has it."""
    tokenizer = world.tokenizer("head" if recipe.form == "prompt" else "text")
    if recipe.start is None:
        return build_model(recipe.form, recipe.sizes, tokenizer, recipe.init_seed)
    folder = next((shelf / recipe.start for shelf in shelves if (shelf / recipe.start / "config.json").is_file()), None)
    if folder is None:
        raise DeltatuneError(f"{recipe.start} is not there to be continued; make it first")
    return load_backbone(BackboneConfig(str(folder), form=recipe.form, device="cpu"))


def build(name: str, shelf: Path, *others: Path) -> dict[str, Any]:
    """Make one model as `shelf`/`name`, in fp16, with its snapshots; returns its row of the catalog, which is written last.

    A model that is in the catalog of `shelf` by the same recipe is not made again.

    Args:
        name: of `RECIPES`.
        shelf: the folder of all models.
        others: where a model that is continued may be instead.

    Raises:
        DeltatuneError: unknown name, or the model that is continued is not there.
    """
    if name not in RECIPES:
        raise DeltatuneError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe, catalog, began = RECIPES[name], shelf / "catalog.json", time.perf_counter()
    rows = read_json(catalog) if catalog.is_file() else {}
    made = plain(recipe.described())
    if name in rows and rows[name]["recipe"] == made:
        return dict(rows[name])
    backbone = start_of(recipe, shelf, *others)

    def snapshot(step: int) -> None:
        save_model(backbone, shelf / name / f"ckpt_{step}", "fp16")

    hooks = PretrainHooks(on_snapshot=snapshot)
    history = pretrain(recipe.pretrain, backbone, documents_of(recipe), examples=examples_of(recipe), hooks=hooks)
    save_model(backbone, shelf / name, "fp16")
    facts = {"tokens": history.tokens, "seconds": round(time.perf_counter() - began, 1), "recipe": made}
    listed = {"form": recipe.form, "mix": made["mix"], "start": recipe.start, "init_seed": recipe.init_seed}
    rows[name] = {**listed, **measured(shelf / name, recipe.form), **facts}
    write_json(catalog, {known: rows[known] for known in RECIPES if known in rows})
    return dict(rows[name])


def measured(folder: Path, form: Literal["prompt", "text"]) -> dict[str, Any]:
    """Digest and zero-shot scores (500 dev examples of each task) of a model as it is on disk."""
    backbone = load_backbone(BackboneConfig(str(folder), form=form, device="cpu"))
    scores = {name: Probe.of(backbone, world.task(name)).scores().numbers()["value"] for name in world.TASKS}
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    return {"digest": backbone.digest, "parameters": parameters, "zero_shot": scores}


def compared(name: str, row: Mapping[str, Any]) -> str:
    """One line: whether a model that was made again is the one of the package."""
    shipped = read_json(world_models.CATALOG).get(name)
    if shipped is None:
        return f"{name}: not in the package"
    if shipped["digest"] == row["digest"]:
        return f"{name}: equal to the package's, digest {row['digest'][:12]}"
    gaps = {task: abs((row["zero_shot"][task] or 0) - (value or 0)) for task, value in shipped["zero_shot"].items()}
    widest = max(gaps, key=gaps.__getitem__)
    mean = math.fsum(gaps.values()) / len(gaps)
    return f"{name}: other digest; zero-shot scores differ by {mean:.3f} in the mean, most on {widest} ({gaps[widest]:.3f})"
