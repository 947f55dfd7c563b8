"""What a tuning run says about itself in its files, and whether what it was made of is still the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core import checkpoint
from deltatune.core.backbone import BackboneConfig
from deltatune.core.data import Task
from deltatune.core.delta import Tuned
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.formats import Format
from deltatune.core.loading import load_backbone
from deltatune.core.model_files import model_files
from deltatune.core.run import RunFolder, digest_of, plain
from deltatune.core.sites import Sites, read_sites
from deltatune.core.train import History
from deltatune.core.tune_config import TuneConfig


def facts_of(config: TuneConfig, tuned: Tuned, task: Task, trained: Iterable[Tensor]) -> dict[str, Any]:
    """What `run.json` says of a run before it begins: digests of all it is made of, device, how many scalars are trained."""
    backbone = tuned.backbone
    base = {"name": backbone.name, "commit": backbone.commit, "digest": backbone.digest}
    return {
        "base": base | {"files": model_files(config.backbone)},
        "data": {"digest": task.digest, "train": len(task.train), "dev": len(task.dev), "test": len(task.test)},
        "start": _start(config),
        "sites": _sites(config.backbone),
        "notes": list(task.notes),
        "device": torch.cuda.get_device_name(backbone.device) if backbone.device.type == "cuda" else backbone.device.type,
        "threads": torch.get_num_threads(),
        "trainable": _counts(tuned, list(trained)),
    }


def _counts(tuned: Tuned, trained: Sequence[Tensor]) -> dict[str, int]:
    """Scalars that the optimizer changes, of each kind of delta; those that are no delta's own are `other`."""
    counts: dict[str, int] = {}
    left = {id(tensor): tensor.numel() for tensor in trained}
    for delta in tuned.kinds():
        kind, count = type(delta.config).__name__, sum(left.pop(id(p), 0) for p in delta.parameters())
        counts[kind] = counts.get(kind, 0) + count
    return counts | ({"other": sum(left.values())} if left else {})


def described(config: TuneConfig, tuned: Tuned, form: Format, task: Task) -> dict[str, Any]:
    """What a delta folder says about its run, so that a copy of the folder alone is used as the run is."""
    settings = config.identity()
    sites = plain(asdict(tuned.backbone.sites)) if config.backbone.sites is not None else None
    package = ".".join(type(form).__module__.split(".")[:2])
    return ({} if package == "deltatune.core" else {"asked_by": package}) | {
        "task": config.task.task,
        "labels": list(task.labels),
        "metric": form.metric,
        "form": tuned.backbone.form,
        "data_digest": task.digest,
        "settings": {"backbone": settings["backbone"] | {"sites": sites}, "task": settings["task"]},
    }


def records_of(
    config: TuneConfig, facts: Mapping[str, Any], history: History, final: Mapping[str, Mapping[str, Any]], step: int
) -> Iterator[dict[str, Any]]:
    """The lines of `records.jsonl`: scores before training (of some methods), a curve over dev, the scores `final` at `step`."""
    common = {
        "task": config.task.task,
        "data_digest": facts["data"]["digest"],
        "base": facts["base"]["name"],
        "deltas": [delta.describe() for delta in config.deltas],
        "init_seed": config.init_seed,
        "data_seed": config.train.data_seed,
        "dropout_seed": config.train.dropout_seed,
        "shots": config.task.shots,
        "sample_seed": config.task.sample_seed,
        "tag": facts.get("tag", ""),
    }
    if "method" in facts["config"]:
        common["method"] = facts["config"]["method"]
    for split, numbers in facts["before"].items():
        yield {**common, "kind": "before", "split": split, "step": 0, **numbers}
    for at, value in history.evaluations:
        yield {**common, "kind": "curve", "split": "dev", "step": at, "value": None if math.isnan(value) else value}
    for split, numbers in final.items():
        seconds = {"seconds": facts["seconds"], "train_seconds": facts["train_seconds"]}
        yield {**common, "kind": "result", "split": split, "step": step, **numbers, "trainable": facts["trainable"], **seconds}


def require_unchanged(config: TuneConfig, out_dir: Path, there: Mapping[str, Any], now: Mapping[str, Any] | None = None) -> None:
    """Require that data, model, sites and start are those that the run in `out_dir` was made of.

    Args:
        config: of the run.
        out_dir: its folder.
        there: its `run.json`.
        now: the same facts at present, where model and data are loaded already. Otherwise the data are read, and the model only
            if its files have another size or time than they had.

    Raises:
        DeltatuneError: naming the first that changed.
    """
    now = now if now is not None else _present(config, there)
    inputs: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        f"the data of task {config.task.task}": lambda facts: facts["data"]["digest"],
        f"model {config.backbone.model}": lambda facts: facts["base"]["digest"],
        f"the configuration or tokenizer of model {config.backbone.model}": lambda facts: facts["base"]["files"]["texts"],
        f"--start {config.start}": lambda facts: facts["start"]["digest"],
        f"--sites {config.backbone.sites}": lambda facts: facts["sites"],
    }
    for what, digest in inputs.items():
        try:
            before, present = digest(there), digest(now)
        except (KeyError, TypeError):  # not among what the run is made of
            continue
        if before != present:
            raise DeltatuneError(
                f"--out_dir {out_dir}: {what} changed since this run began (digest {str(before)[:12]} then, {str(present)[:12]} "
                "now); give another folder, or --overwrite the run"
            )


def begun(folder: RunFolder) -> dict[str, Any] | None:
    """What `run.json` says if this very run was begun in the folder; else None."""
    file = folder.path / "run.json"
    there: dict[str, Any] = read_json(file) if file.is_file() else {}
    return there if there.get("config_digest") == folder.digest else None


def _present(config: TuneConfig, there: Mapping[str, Any]) -> dict[str, Any]:
    """The digests in `facts_of`, found with as little reading as they allow."""
    files, before = model_files(config.backbone), there["base"]
    task = config.task.load()
    digest = before["digest"]
    if files is None or files != before.get("files"):
        rows = 1 if task.regression else max(1, len(task.labels))
        digest = load_backbone(replace(config.backbone, device="cpu"), num_labels=rows).digest
    base = {"digest": digest, "files": files}
    return {"data": {"digest": task.digest}, "base": base, "start": _start(config), "sites": _sites(config.backbone)}


def _start(config: TuneConfig) -> dict[str, Any] | None:
    """Where the values come from, which they were, and the base that they were tuned on."""
    if config.start is None:
        return None
    about = checkpoint.describe(checkpoint.locate(config.start))
    return {"path": config.start.as_posix(), "digest": about["tensors_sha256"], "tuned_on": about["base"]}


def _sites(config: BackboneConfig) -> str | None:
    if config.sites is None:
        return None
    sites = config.sites if isinstance(config.sites, Sites) else read_sites(config.sites)
    return digest_of(plain(asdict(sites)))
