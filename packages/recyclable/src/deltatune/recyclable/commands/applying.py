"""`apply`: an outdated delta on an upgraded base, scored without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from deltatune.core import checkpoint
from deltatune.core.backbone import Device
from deltatune.core.checkpoint import base_record
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.delta import attach
from deltatune.core.evaluation import evaluate
from deltatune.core.reuse import open_run
from deltatune.recyclable.commands.results import Found, Kept, show_scores
from deltatune.recyclable.methods import identity
from deltatune.recyclable.recycle import HeadInit, Recycling, put


def apply(
    run: Path,
    model: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    head_init: HeadInit = "copy",
    scale: float = 1.0,
    task: str | None = None,
    data_dir: Path | None = None,
    init_seed: int = 0,
    device: Device = "auto",
    max_dev: int | None = None,
    max_test: int | None = None,
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Put an outdated delta on an upgraded base and score it on dev and test; nothing is trained.

    Fine-tuning: new base + (tuned - old base); a light delta is attached as it is. What the head carries by itself shows with
    --scale 0, what the delta carries without it with --head_init fresh.

    Args:
        run: the outdated run, RUN@STEP or a delta folder.
        model: the upgraded base: a folder, FOLDER@STEP of a series, or a hub name.
        out_dir: folder of the result; it holds the delta as it is on the new base.
        config_yaml: filled in by the program.
        head_init: the task head: copy the tuned one, fresh random values, or the published arithmetic (new + tuned - old).
        scale: factor of the outdated delta.
        task: another task than the run's.
        data_dir: where the task's files are now, if not where they were.
        init_seed: seed of fresh values.
        device: where to compute.
        max_dev: use the first N dev examples.
        max_test: use the first N test examples.
        tag: a word of yours that goes into the records.
        overwrite: throw away a run that is in out_dir.
    """
    opened, how = open_run(run), Recycling(head_init, scale)
    choice = opened.task_choice(task, data_dir)
    loaded = choice.load()
    backbone = opened.backbone(model, device)
    form = opened.format(backbone, loaded)
    tuned = attach(backbone, *opened.saved.configs, generator=torch.Generator().manual_seed(init_seed))
    put(opened.saved, tuned, how, torch.Generator().manual_seed(init_seed + 1))
    parts = {"dev": loaded.dev[:max_dev], "test": loaded.test[:max_test]}
    what = {"head_init": head_init, "scale": scale, "init_seed": init_seed}
    bases = {"base": base_record(backbone), "tuned_on": opened.saved.base}
    settings: dict[str, Any] = {"delta": identity(run), "task": choice.task, "data": loaded.digest, **bases, **what}
    settings |= {"max_length": choice.max_length, "max_dev": max_dev, "max_test": max_test}

    def work() -> Found:
        scores = {split: evaluate(tuned, form, part).numbers() for split, part in parts.items() if part}
        known = {"task": choice.task, "labels": list(loaded.labels), "metric": form.metric, "form": backbone.form}
        checkpoint.save(out_dir / "delta", tuned, {**known, "applied": what})
        common = {"kind": "applied", "task": choice.task, "base": backbone.name, "delta": run.as_posix(), **what}
        return {"scores": scores, **bases}, [{**common, "split": split, **numbers} for split, numbers in scores.items()]

    facts = Kept(out_dir, config_yaml, overwrite, tag).once("apply", settings, work)
    show_scores(facts["scores"].items())
