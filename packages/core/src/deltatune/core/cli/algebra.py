"""`deltatune distance` and `deltatune merge`: compute with deltas that are on disk."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.backbone import BackboneConfig, base_tensors
from deltatune.core.checkpoint import base_record
from deltatune.core.cli.output import output
from deltatune.core.combining import require_one_space
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import replacing, write_json
from deltatune.core.groups import By, gaps, grouping
from deltatune.core.loading import load_backbone, quiet
from deltatune.core.model_files import model_folder
from deltatune.core.reuse import open_run
from deltatune.core.weights import Weights


def distance(
    left: Path,
    right: Path,
    by: By = "all",
    head: bool = False,
    other_base: bool = False,
    sites: Path | None = None,
) -> None:
    """How far two deltas, or two models, are apart: Euclidean distance, root mean square, cosine.

    Two deltas must be of one kind with equal settings, tuned on one base: else equal numbers would mean different things.

    Args:
        left: a run, RUN@STEP, a delta folder, a model folder, or FOLDER@STEP of a `ckpt_STEP` series.
        right: a delta if left is one, a model if left is one.
        by: one line for everything, for each block of the model, each kind of part (attention, feed-forward, norms, ...), or each
            tensor.
        head: count the task head of deltas as well; models are compared without theirs.
        other_base: allow deltas that were tuned on bases with different digests.
        sites: YAML record of the architecture of models that deltatune does not know.
    """
    one, other, bases = _ends(left, right, head, other_base, sites)
    table = Table("group", "tensors", "scalars", "L2", "root mean square", "cosine", "|left|", "|right|")
    for gap in gaps(one, other, grouping(by)):
        values = (gap.l2, gap.rms, gap.cosine, gap.left, gap.right)
        table.add_row(gap.group, str(gap.tensors), f"{gap.scalars:,}", *(f"{value:.6g}" for value in values))
    console = output()
    console.print(table)
    if bases:
        console.print(f"note: tuned on different bases, {' and '.join(bases)}", soft_wrap=True)


def merge(run: Path, out_dir: Path, other_base: bool = False, model: str | None = None) -> None:
    """Add a delta to its base and write an ordinary Hugging Face model folder with the same outputs.

    LoRA, BitFit, Full and Modules can be merged. Adapters and prompts cannot: they add modules or positions, and the command
    says so.

    Args:
        run: a run, RUN@STEP for a snapshot, or a delta folder.
        out_dir: the model folder to write; `merge.json` in it says which delta and which bases went in.
        other_base: allow a base with another digest.
        model: another base model than the run's.
    """
    import torch

    opened = open_run(run)
    if out_dir.is_file() or (out_dir.exists() and any(out_dir.iterdir())):
        raise DeltatuneError(f"--out_dir {out_dir} is not an empty folder; choose another")
    backbone = opened.backbone(model, "cpu", "fp32")
    tuned = opened.attach(backbone, other_base)
    # The base's digest is taken before its values change.
    origin = {
        "delta": str(run),
        "delta_digest": opened.saved.digest,
        "base": base_record(backbone),
        "tuned_on": opened.saved.base,
    }
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
        write_json(folder / "merge.json", origin)
        if backbone.tokenizer is not None:
            backbone.tokenizer.save_pretrained(folder)
    output().print(f"merged model written to {out_dir}", soft_wrap=True)


def _ends(left: Path, right: Path, head: bool, other_base: bool, sites: Path | None) -> tuple[Weights, Weights, list[str]]:
    """What is compared: the tensors of two models, or of two deltas that live in one space, with their bases if they have two."""
    models = [None if (path / checkpoint.ABOUT).is_file() else model_folder(path) for path in (left, right)]
    if models[0] is not None and models[1] is not None:
        one, other = (load_backbone(BackboneConfig(str(model), device="cpu", sites=sites)) for model in models)
        return dict(base_tensors(one.model, one.sites)), dict(base_tensors(other.model, other.sites)), []
    if models[0] is not None or models[1] is not None:
        model, delta = (left, right) if models[0] is not None else (right, left)
        raise DeltatuneError(f"distance: {model} is a model and {delta} is not; give two models or two deltas")
    deltas = [checkpoint.read(path) for path in (left, right)]
    require_one_space(deltas[0], deltas[1], "distance", other_base)
    differ = deltas[0].base["digest"] != deltas[1].base["digest"]
    bases = [f"{saved.base['name']} (digest {str(saved.base['digest'])[:12]})" for saved in deltas if differ]
    ends = [{name: tensor for name, tensor in saved.weights.items() if head or name not in saved.head} for saved in deltas]
    return ends[0], ends[1], bases
