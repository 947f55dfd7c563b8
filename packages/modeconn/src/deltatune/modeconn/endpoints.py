"""What a path can end at: a run, a delta folder, an adapter of PEFT, or a whole Hugging Face model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core import peft_format
from deltatune.core.backbone import Backbone, BackboneConfig
from deltatune.core.checkpoint import ABOUT, CONFIG, Saved, base_record
from deltatune.core.cli.tune import tuning_like
from deltatune.core.combining import require_one_space
from deltatune.core.delta import Full, Head, LoRA, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.formats import Format
from deltatune.core.loading import load_backbone
from deltatune.core.paths import end_of
from deltatune.core.reuse import TunedRun, open_run
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.weights import Weights
from deltatune.modeconn.alignment import aligned, product_ends
from deltatune.modeconn.scenes import Where, is_whole


def open_end(path: Path, model: str | None = None) -> TunedRun:
    """Take up an end of a path.

    Args:
        path: a run, RUN@STEP, a delta folder, a folder that PEFT wrote, or a folder of a Hugging Face model.
        model: the base of an adapter of PEFT, if not the one that it names.

    Raises:
        DeltatuneError: nothing of the kind there.
    """
    if (path / CONFIG).is_file() and not (path / ABOUT).is_file():
        return _open_peft(path, model)
    if (path / "config.json").is_file() and not (path / "run.json").is_file():
        return _open_model(path)
    return open_run(path)


def _open_peft(path: Path, model: str | None) -> TunedRun:
    name = model or read_json(path / CONFIG).get("base_model_name_or_path")
    if not name:
        raise DeltatuneError(f"{path}: the adapter names no base model; give --model")
    backbone = load_backbone(BackboneConfig(name, device="cpu"), num_labels=peft_format.num_labels(path))
    saved = peft_format.import_adapter(path, backbone)
    return TunedRun(path, path, saved, {"backbone": {"model": name, "form": backbone.form}})


def _open_model(path: Path) -> TunedRun:
    """A whole model: no difference to itself as base, and its own head."""
    backbone = load_backbone(BackboneConfig(path.as_posix(), device="cpu"))
    if backbone.fresh:
        raise DeltatuneError(
            f"{path}: the model has no trained head ({sorted(backbone.fresh)[0]} is not in it); give a tuned one"
        )
    tuned = attach(backbone, Full())
    names = getattr(backbone.model.config, "id2label", None) or {}
    labels = [str(names[number]) for number in sorted(names)]
    about = {} if not labels or labels[0].startswith("LABEL_") or backbone.form == "text" else {"labels": labels}
    configs = tuple(delta.config for delta in tuned.kinds())
    # One zero stands for every difference of a tensor: the base is the model, which is read again for a path.
    head = tuple(tuned.head_names)
    held = {name: value.detach() for name, value in tuned.parameters_by_name().items()}
    weights = {
        name: value.float().clone() if name in head else torch.zeros(()).expand(value.shape) for name, value in held.items()
    }
    saved = Saved(weights, configs, base_record(backbone), head, about, path)
    tuned.detach()
    return TunedRun(path, path, saved, {"backbone": {"model": path.as_posix(), "form": backbone.form}})


def identity(run: TunedRun) -> dict[str, Any]:
    """Where an end is, what it holds, and on which base."""
    digest = run.saved.digest
    if digest is None:
        total = hashlib.sha256()
        for name, tensor in run.saved.weights.items():
            total.update(name.encode())
            total.update(tensor.float().cpu().contiguous().numpy().tobytes())
        digest = total.hexdigest()
    return {"path": run.path.as_posix(), "digest": digest, "base": run.saved.base["digest"]}


def require_different(runs: Sequence[TunedRun]) -> None:
    """Refuse two ends that are one and the same.

    Raises:
        DeltatuneError: naming them.
    """
    seen: dict[tuple[str, str], Path] = {}
    for run in runs:
        found = identity(run)
        key = found["digest"], found["base"]
        if key in seen:
            raise DeltatuneError(f"{seen[key]} and {run.path} hold the same weights; a path needs different ends")
        seen[key] = run.path


def transformed(runs: Sequence[TunedRun], align: bool, product: bool) -> list[TunedRun]:
    """The ends in one space, the others moved to where they are nearest to the first, or widened to interpolate products.

    Raises:
        DeltatuneError: other kinds or settings; no symmetry to undo; more than two ends of a product.
    """
    for run in runs[1:]:
        require_one_space(runs[0].saved, run.saved, "path", other_base=True)
    first = runs[0]
    if align and product:
        raise DeltatuneError("--align and --product: the product has no symmetry left to undo; give one of them")
    if align:
        return [first, *(_with(run, aligned(_common(first, run), run.saved.weights)) for run in runs[1:])]
    if not product:
        return list(runs)
    lora = next((config for config in first.saved.configs if isinstance(config, LoRA)), LoRA())
    wide, left, right = product_ends(first.saved.weights, _common(runs[1], first), lora)
    configs = tuple(wide if isinstance(config, LoRA) else config for config in first.saved.configs)
    ends = zip(runs, ({**left}, {**right, **_heads(runs[1])}), strict=True)
    return [replace(run, saved=replace(run.saved, weights=weights, configs=configs, digest=None)) for run, weights in ends]


def _heads(run: TunedRun) -> dict[str, Tensor]:
    return {name: run.saved.weights[name] for name in run.saved.head}


def _common(one: TunedRun, other: TunedRun) -> dict[str, Tensor]:
    """The weights of `one`, with the head of `other` where the two have heads of other widths."""
    heads = _heads(other)
    return {name: heads.get(name, tensor) for name, tensor in one.saved.weights.items()}


def _with(run: TunedRun, weights: Weights) -> TunedRun:
    return replace(run, saved=replace(run.saved, weights=dict(weights), digest=None))


def in_one_space(runs: Sequence[TunedRun], where: Where) -> list[Weights]:
    """The ends as deltas on the base of the first, between which curves are learned.

    Raises:
        DeltatuneError: different bases and something else than whole models.
    """
    first = runs[0]
    if not is_whole(runs, "auto"):
        return [run.saved.weights for run in runs]
    for run in runs:
        if not all(isinstance(config, Full | Head) for config in run.saved.configs):
            raise DeltatuneError(
                f"{first.path} and {run.path} were tuned on different bases; only whole models (Full) can be bent between bases"
            )
    backbone = first.backbone(where.models[0], "cpu")
    tuned = first.attach(backbone)
    base = {
        name: value - first.saved.weights[name] for name, value in end_of(tuned).deltas.items() if name not in first.saved.head
    }
    found: list[Weights] = [first.saved.weights]
    for number, run in enumerate(runs[1:], start=1):
        values = end_of(run.attach(run.backbone(where.models[number], "cpu"))).deltas
        found.append({name: value - base[name] if name in base else value for name, value in values.items()})
    return found


def about_of(run: TunedRun, backbone: Backbone, form: Format, choice: TaskChoice) -> dict[str, Any]:
    """What a delta folder made from `run` says of its task."""
    known = {"task": choice.task, "labels": list(form.task.labels), "metric": form.metric, "form": backbone.form}
    return {key: value for key, value in run.saved.about.items() if key in ("settings", "data_digest")} | known


def require_runs(paths: Sequence[Path], model: str | None) -> list[TunedRun]:
    """Open all ends and require them to be different."""
    runs = [open_end(path, model) for path in paths]
    require_different(runs)
    return runs


def tuned_like(run: TunedRun, model: str | None, options: dict[str, Any]) -> TuneConfig:
    """The configuration for training something between ends like `run`: its deltas, task and sample where `options` say nothing.

    Raises:
        DeltatuneError: as `tuning_like`.
    """
    base = model or (run.settings.get("backbone") or {}).get("model") or run.saved.base["name"]
    config = tuning_like(run, {"model": base, **options})
    choice = run.task_choice(options.get("task"), options.get("data_dir"))
    given = {name: options[name] for name in ("max_train", "max_dev", "max_test", "shots") if options.get(name) is not None}
    return replace(config, task=replace(choice, max_length=config.task.max_length, half=options.get("half"), **given))


def describe(path: Path) -> str:
    """A short name of an end for figures and tables."""
    return path.name if path.name not in ("delta", "") else path.parent.name
