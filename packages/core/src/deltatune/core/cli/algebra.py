"""`deltatune distance` and `deltatune merge`: compute with deltas that are on disk."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Literal

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.backbone import BackboneConfig, base_tensors
from deltatune.core.cli.output import output
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import replacing
from deltatune.core.loading import load_backbone, quiet
from deltatune.core.reuse import open_run
from deltatune.core.weights import Weights, cosine, norm
from deltatune.core.weights import distance as l2


def distance(left: Path, right: Path, by: Literal["all", "block", "tensor"] = "all", head: bool = False) -> None:
    """How far two deltas, or two models, are apart: Euclidean distance, root mean square, cosine.

    Args:
        left: a run, RUN@STEP, a delta folder, or a model folder.
        right: the same kind of thing.
        by: one line for everything, for each block of the model, or for each tensor.
        head: count the task head as well.
    """
    ends = [_read(path, head) for path in (left, right)]
    groups: dict[str, Callable[[str], str]] = {"all": lambda name: "all", "block": block_of, "tensor": str}
    group = groups[by]
    gaps = l2(ends[0], ends[1], group)
    table = Table("group", "tensors", "scalars", "L2", "root mean square", "cosine", "|left|", "|right|")
    for key, gap in gaps.items():
        sides: list[Weights] = [{name: t for name, t in end.items() if group(name) == key} for end in ends]
        count = sum(tensor.numel() for tensor in sides[0].values())
        values = (gap, gap / sqrt(count), cosine(*sides), norm(sides[0]), norm(sides[1]))
        table.add_row(key, str(len(sides[0])), f"{count:,}", *(f"{value:.6g}" for value in values))
    output().print(table)


def merge(run: Path, out_dir: Path, other_base: bool = False, model: str | None = None) -> None:
    """Add a delta to its base and write an ordinary Hugging Face model folder with the same outputs.

    LoRA, BitFit, Full and Modules can be merged. Adapters and prompts cannot: they add modules or positions, and the command
    says so.

    Args:
        run: a run, or RUN@STEP for a snapshot.
        out_dir: the model folder to write.
        other_base: allow a base with another digest.
        model: another base model than the run's.
    """
    import torch

    opened = open_run(run)
    if out_dir.is_file() or (out_dir.exists() and any(out_dir.iterdir())):
        raise DeltatuneError(f"--out_dir {out_dir} is not an empty folder; choose another")
    backbone = opened.backbone(model, "cpu", "fp32")
    tuned = opened.attach(backbone, other_base)
    # What replaces values of the base comes before what is added to them.
    with torch.no_grad():
        for delta in sorted(tuned.kinds(), key=lambda delta: not delta.replaced()):
            for name, tensor in delta.merged(backbone.model).items():
                backbone.model.get_parameter(name).copy_(tensor)
    tuned.detach()
    if opened.labels and opened.num_labels == len(opened.labels):
        backbone.model.config.id2label = dict(enumerate(opened.labels))
        backbone.model.config.label2id = {label: number for number, label in enumerate(opened.labels)}
    with replacing(out_dir) as folder:
        with quiet():
            backbone.model.save_pretrained(folder)
        if backbone.tokenizer is not None:
            backbone.tokenizer.save_pretrained(folder)
    output().print(f"merged model written to {out_dir}", soft_wrap=True)


def block_of(name: str) -> str:
    """The block that a tensor belongs to: its name up to the block's number, or what stands before its last part."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else ".".join(parts[:-1])


def _read(path: Path, head: bool) -> Weights:
    if (path / "config.json").is_file() and not (path / checkpoint.ABOUT).is_file():
        backbone = load_backbone(BackboneConfig(str(path), device="cpu"))
        return dict(base_tensors(backbone.model, backbone.sites))
    saved = checkpoint.read(path)
    return {name: tensor for name, tensor in saved.weights.items() if head or name not in saved.head}
