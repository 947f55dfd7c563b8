"""`distance` and `similarity`: how far two models are apart in their weights, and in what their attention heads do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.backbone import BackboneConfig, Device, base_tensors
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.combining import require_one_space
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import build_format
from deltatune.core.groups import By, gaps, grouping
from deltatune.core.loading import load_backbone
from deltatune.core.paths import end_of
from deltatune.core.probes import attention
from deltatune.core.reuse import open_run
from deltatune.core.tune_config import TaskChoice
from deltatune.core.weights import Weights
from deltatune.recyclable.commands.results import Found, Kept
from deltatune.recyclable.methods import identity
from deltatune.recyclable.similarity import HeadCorrelation
from deltatune.recyclable.tokenizers import compare, require_readable

Scope = Literal["delta", "head", "base", "model"]
_AT_ONCE = 8  # examples; attention maps of all layers and heads are held for both models


def distance(left: Path, right: Path, scope: Scope | None = None, by: By = "all", device: Device = "cpu") -> None:
    """How far two tuned models, deltas or bases are apart: Euclidean distance, root mean square, cosine similarity.

    Args:
        left: a run, RUN@STEP, a delta folder, or a model.
        right: the same kind of thing.
        scope: of runs: delta (without the head; the default), head, base (what they were tuned on), or model (base, delta and
            head together). Of models: base.
        by: one line for everything, for each block, for each part (embeddings, attention, feed-forward, norms, head), or for each
            tensor.
        device: where to compute.
    """
    if scope != "base" and is_delta(left) and is_delta(right):
        require_one_space(checkpoint.read(left), checkpoint.read(right), "distance", other_base=True)
    ends = [_tensors(path, scope, device) for path in (left, right)]
    table = Table("group", "tensors", "scalars", "L2", "root mean square", "cosine", "|left|", "|right|")
    for gap in gaps(ends[0], ends[1], grouping(by)):
        values = (gap.l2, gap.rms, gap.cosine, gap.left, gap.right)
        table.add_row(gap.group, str(gap.tensors), f"{gap.scalars:,}", *(f"{value:.6g}" for value in values))
    output().print(table)


def is_delta(path: Path) -> bool:
    """Whether `path` addresses a run, a snapshot or a delta folder, and not a model."""
    try:
        checkpoint.locate(path)
    except DeltatuneError:
        return False
    return True


def _tensors(path: Path, scope: Scope | None, device: Device) -> Weights:
    if not is_delta(path):
        if scope not in (None, "base"):
            raise DeltatuneError(f"{path}: no delta here, so there is no scope '{scope}'; give runs, or --scope base for models")
        backbone = load_backbone(BackboneConfig(path.as_posix(), device=device))
        return dict(base_tensors(backbone.model, backbone.sites))
    opened = open_run(path)
    if scope in (None, "delta", "head"):
        inside = scope == "head"
        return {name: tensor for name, tensor in opened.saved.weights.items() if (name in opened.saved.head) == inside}
    backbone = opened.backbone(device=device)
    if scope == "base":
        return dict(base_tensors(backbone.model, backbone.sites))
    end = end_of(opened.attach(backbone), with_base=True)
    return {**(end.base or {}), **end.deltas}


def similarity(
    left: Path,
    right: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    left_model: str | None = None,
    right_model: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    split: Literal["dev", "test"] = "dev",
    max_examples: int = 64,
    device: Device = "auto",
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Functional similarity: the correlation of two models' attention, head by head, on the same texts.

    Args:
        left: a run, RUN@STEP, a delta folder, or a model.
        right: another with as many layers and heads.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        left_model: where the left base is now, if not where its run found it.
        right_model: the same for the right base.
        task: whose texts; the left run's by default.
        data_dir: where the task's files are now, if not where they were.
        split: which texts.
        max_examples: use the first N of them.
        device: where to compute.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    choice = _texts_of(left, task, data_dir)
    loaded = choice.load()
    examples = getattr(loaded, split)[:max_examples]
    sides = [_attached(path, model, device) for path, model in ((left, left_model), (right, right_model))]
    if sides[0].backbone.tokenizer is not None and sides[1].backbone.tokenizer is not None:
        require_readable(compare(sides[0].backbone.tokenizer, sides[1].backbone.tokenizer), sides[1].backbone.name)
    form = build_format(sides[0].backbone, loaded, choice.max_length)
    ends = [identity(path) if is_delta(path) else {"model": path.as_posix()} for path in (left, right)]
    settings: dict[str, Any] = {
        "left": ends[0],
        "right": ends[1],
        "bases": [side.backbone.digest for side in sides],
        "task": choice.task,
    }
    settings |= {"data": loaded.digest, "split": split, "max_examples": max_examples, "max_length": choice.max_length}

    def work() -> Found:
        found, features = HeadCorrelation(), form.features(examples)
        for first in range(0, len(features), _AT_ONCE):
            batch = form.collate(features[first : first + _AT_ONCE])
            batch = {name: tensor.to(sides[0].backbone.device) for name, tensor in batch.items()}
            found.add(attention(sides[0], batch), attention(sides[1], batch), batch["attention_mask"])
        heads = found.result()
        records = [
            {"kind": "similarity", "task": choice.task, "layer": layer, "head": head, "correlation": float(heads[layer, head])}
            for layer in range(heads.shape[0])
            for head in range(heads.shape[1])
        ]
        layers = heads.nanmean(dim=1).tolist()
        return {"similarity": {"mean": float(heads.nanmean()), "layers": layers, "examples": len(examples)}}, records

    numbers = Kept(out_dir, config_yaml, overwrite, tag).once("similarity", settings, work)["similarity"]
    table = Table("layer", "mean correlation of its heads")
    for layer, value in enumerate(numbers["layers"]):
        table.add_row(str(layer), f"{value:.4f}")
    table.add_row("all", f"{numbers['mean']:.4f}")
    output().print(table)


def _texts_of(left: Path, task: str | None, data_dir: Path | None) -> TaskChoice:
    if is_delta(left):
        return open_run(left).task_choice(task, data_dir)
    if task is None:
        raise DeltatuneError(f"--left {left} is a model, which has no task; give --task for the texts")
    return TaskChoice(task, data_dir)


def _attached(path: Path, model: str | None, device: Device) -> Tuned:
    """The tuned model of a run, or a model with a fresh head."""
    if not is_delta(path):
        return attach(load_backbone(BackboneConfig(model or path.as_posix(), device=device)))
    opened = open_run(path)
    return opened.attach(opened.backbone(model, device))
