"""`distill`, `init` and `combine`: tune on an upgraded base with the help of an outdated delta."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import Tracker, tune_and_show, tuning, tuning_like
from deltatune.core.reuse import open_run
from deltatune.recyclable.commands.results import PROGRAM
from deltatune.recyclable.distill import Distillation, Reduction
from deltatune.recyclable.methods import Recycle
from deltatune.recyclable.recycle import HeadInit, Recycling

# What an old delta decides itself: its kind and settings, and how it is started.
OF_THE_DELTA = ("delta", "also", "start", "other_base")


@sharing(tuning, without=("start", "other_base"))
def distill(
    teacher: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    alpha: float = 0.9,
    beta: float = 0.0,
    temperature: float = 5.0,
    reduction: Reduction = "element_mean",
    teacher_model: str | None = None,
    tag: str = "",
    log_with: Tracker | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Tune a fresh delta on the upgraded base, with the outdated delta on its old base as teacher.

    Args:
        teacher: the outdated run, or RUN@STEP for a snapshot (the published teacher is the last step).
        out_dir: folder of the run.
        config_yaml: filled in by the program.
        alpha: weight of the distillation term; the labels have 1 - alpha.
        beta: weight of the layer-wise ("patience") term; 0 leaves it out (published: -1).
        temperature: both sides' logits are divided by it.
        reduction: element_mean divides by examples and classes, as published; batch_mean by examples.
        teacher_model: where the teacher's base is now, if not where its run found it.
        tag: a word of yours that goes into the records.
        log_with: also log to this tracker, below out_dir.
        overwrite: throw away a run that is in out_dir.
    """
    config = tuning(**options)
    losses = Distillation(alpha, beta, temperature, reduction)
    method = Recycle(teacher=teacher, teacher_model=teacher_model, distillation=losses, device=config.backbone.device)
    tune_and_show(config, out_dir, {"command": f"{PROGRAM} distill", "tag": tag}, config_yaml, overwrite, log_with, method)


@sharing(tuning, without=OF_THE_DELTA, optional=True)
def init(
    run: Path,
    model: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    head_init: HeadInit = "copy",
    scale: float = 1.0,
    train_head: bool = True,
    max_length: int | None = None,
    tag: str = "",
    log_with: Tracker | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Tune on the upgraded base from an outdated delta as initialization; its scores before training are reported as well.

    Args:
        run: the outdated run, RUN@STEP or a delta folder.
        model: the upgraded base: a folder, FOLDER@STEP of a series, or a hub name.
        out_dir: folder of the new run.
        config_yaml: filled in by the program.
        head_init: the task head: copy the tuned one, fresh random values, or the published arithmetic (new + tuned - old).
        scale: factor of the outdated delta.
        train_head: whether the head is trained; the published adapter program froze it.
        max_length: longest input in tokens; that of the outdated run by default.
        tag: a word of yours that goes into the records.
        log_with: also log to this tracker, below out_dir.
        overwrite: throw away a run that is in out_dir.
    """
    config = tuning_like(open_run(run), {"model": model, "max_length": max_length, **options})
    method = Recycle(start=run, how=Recycling(head_init, scale), train_head=train_head, init_seed=config.init_seed)
    tune_and_show(config, out_dir, {"command": f"{PROGRAM} init", "tag": tag}, config_yaml, overwrite, log_with, method)


@sharing(tuning, without=OF_THE_DELTA, optional=True)
def combine(
    run: Path,
    model: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    teacher: Path | None = None,
    alpha: float = 0.9,
    beta: float = 0.0,
    temperature: float = 5.0,
    reduction: Reduction = "element_mean",
    teacher_model: str | None = None,
    head_init: HeadInit = "copy",
    scale: float = 1.0,
    train_head: bool = True,
    max_length: int | None = None,
    tag: str = "",
    log_with: Tracker | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Both: start from the outdated delta, and learn from it as teacher.

    Args:
        run: the outdated run, RUN@STEP or a delta folder: the start.
        model: the upgraded base: a folder, FOLDER@STEP of a series, or a hub name.
        out_dir: folder of the new run.
        config_yaml: filled in by the program.
        teacher: another run as teacher; the start itself by default.
        alpha: weight of the distillation term; the labels have 1 - alpha.
        beta: weight of the layer-wise ("patience") term; 0 leaves it out (published: -1).
        temperature: both sides' logits are divided by it.
        reduction: element_mean divides by examples and classes, as published; batch_mean by examples.
        teacher_model: where the teacher's base is now, if not where its run found it.
        head_init: the task head: copy the tuned one, fresh random values, or the published arithmetic (new + tuned - old).
        scale: factor of the outdated delta.
        train_head: whether the head is trained; the published adapter program froze it.
        max_length: longest input in tokens; that of the outdated run by default.
        tag: a word of yours that goes into the records.
        log_with: also log to this tracker, below out_dir.
        overwrite: throw away a run that is in out_dir.
    """
    config = tuning_like(open_run(run), {"model": model, "max_length": max_length, **options})
    method = Recycle(
        start=run,
        how=Recycling(head_init, scale),
        teacher=teacher or run,
        teacher_model=teacher_model,
        distillation=Distillation(alpha, beta, temperature, reduction),
        train_head=train_head,
        init_seed=config.init_seed,
        device=config.backbone.device,
    )
    tune_and_show(config, out_dir, {"command": f"{PROGRAM} combine", "tag": tag}, config_yaml, overwrite, log_with, method)
