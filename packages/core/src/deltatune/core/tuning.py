"""Tuning deltas on a task and keeping the result: what `deltatune tune` does, for Python."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core import checkpoint
from deltatune.core.between_runs import Load, lent
from deltatune.core.combining import other_meaning
from deltatune.core.data import Task
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.files import held
from deltatune.core.formats import Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.method import Method
from deltatune.core.metrics import higher_is_better
from deltatune.core.processes import Processes, join
from deltatune.core.resume import has_state
from deltatune.core.run import RunFolder, digest_of
from deltatune.core.run_facts import begun, described, facts_of, records_of, require_unchanged
from deltatune.core.train import History, Hooks, fit
from deltatune.core.tune_config import TuneConfig


@dataclass
class Result:
    """A tuned model in memory, with its scores.

    Args:
        tuned: holds the selected weights.
        weights: those, as a file holds them.
        form: how the task is asked.
        history: of the training; its evaluations and best score are values of the metric.
        dev: scores of the selected weights; None without dev examples.
        test: the same on test.
    """

    tuned: Tuned
    weights: dict[str, Tensor]
    form: Format
    history: History
    dev: Scores | None
    test: Scores | None


def prepare(config: TuneConfig, load: Load = load_backbone) -> tuple[Tuned, Format, Task]:
    """Load task and model, attach the deltas, and take over the start if there is one.

    Args:
        config: what to do.
        load: gives the model, for its configuration and a number of labels.

    Raises:
        DeltatuneError: whatever does not fit; nothing is written by this function.
    """
    if not config.deltas:
        raise DeltatuneError("no delta given; choose one with --delta")
    task = config.task.load()
    config.train.require_reached(config.train.updates(len(task.train)))
    backbone = load(config.backbone, 1 if task.regression else max(1, len(task.labels)))
    generator = torch.Generator().manual_seed(config.init_seed)
    form = build_format(backbone, task, config.task.max_length, config.deltas)
    tuned = attach(backbone, *config.deltas, generator=generator)
    if config.start is not None:
        start = checkpoint.read(config.start)
        if not config.other_base:
            checkpoint.require_base(start, backbone)
        task = replace(task, notes=(*task.notes, *take_start(tuned, start, task.labels)))
    return tuned, form, task


def take_start(tuned: Tuned, start: checkpoint.Saved, labels: tuple[str, ...]) -> list[str]:
    """Start from saved values; a head of another width, or for other labels, keeps its fresh values, and a note says so.

    Raises:
        DeltatuneError: the deltas themselves have other settings (first values and dropout do not count), names or shapes.
    """
    if (found := other_meaning(start.configs, [delta.config for delta in tuned.kinds()])) is not None:
        raise DeltatuneError(
            f"--start {start.path}: its deltas and those asked for have other settings ({found}); give those of the start"
        )
    own, known = tuned.weights(), start.about.get("labels")
    fits = set(start.head) == set(tuned.head_names) and all(start.weights[n].shape == own[n].shape for n in tuned.head_names)
    fits = fits and (known is None or tuple(known) == labels)
    kept = {} if fits else {name: own[name] for name in tuned.head_names}
    tuned.load({name: w for name, w in start.weights.items() if fits or name not in start.head} | kept)
    return [] if fits or not start.head else [f"the head starts afresh: that of {start.path} is for other labels"]


def tune(config: TuneConfig, hooks: Hooks | None = None, resume_from: Path | None = None) -> Result:
    """Tune and score, all in memory.

    Args:
        config: what to do.
        hooks: see `fit`.
        resume_from: folder with the state of an interrupted run.
    """
    tuned, form, task = prepare(config)
    return tune_prepared(config, tuned, form, task, hooks, resume_from)


def tune_prepared(
    config: TuneConfig,
    tuned: Tuned,
    form: Format,
    task: Task,
    hooks: Hooks | None = None,
    resume_from: Path | None = None,
    method: Method | None = None,
) -> Result:
    """The second half of `tune`, for a model that is attached already and holds the values that training starts from."""
    method = method or Method()
    dev = form.features(task.dev)
    train = replace(config.train, optimizer=replace(config.train.optimizer, lr=config.learning_rate))
    batches = train.batches(form.features(task.train), form.collate, form.choose, form.weigh)
    per_epoch = batches.per_epoch(train.accumulation)
    if train.eval_every is None:
        # A run shorter than an epoch is still evaluated once.
        train = replace(train, eval_every=min(per_epoch, train.total(per_epoch)))
    sign = 1 if higher_is_better(form.metric) else -1  # `fit` takes the greatest
    history = fit(
        lambda batch: method.loss(tuned, form, batch),
        method.trained(tuned),
        batches,
        train,
        evaluate=(lambda: sign * method.score(tuned, form, task.dev, dev)) if task.dev else None,
        hooks=replace(hooks or Hooks(), mode=partial(_switch, tuned, method)),
        resume_from=resume_from,
    )
    history.evaluations = [(step, sign * value) for step, value in history.evaluations]
    history.best_score = history.best_score and sign * history.best_score
    weights = _take(tuned, history.selected, method)
    scores = [evaluate(tuned, form, split) if split else None for split in (task.dev, task.test)]
    return Result(tuned, weights, form, history, *scores)


def _switch(tuned: Tuned, method: Method, training: bool) -> None:
    if not training:
        method.hold(tuned)
    tuned.train(training)


def _take(tuned: Tuned, selected: Mapping[str, Tensor], method: Method) -> dict[str, Tensor]:
    """The selected weights, and hold them as a delta read from their file does, so that scores are those of the file.

    Differences to the base are rounded, and those of rounded values may be rounded again: what is saved is what was scored.
    """
    with torch.no_grad():
        parameters = method.trained(tuned)
        for name, value in selected.items():
            parameters[name].copy_(value)
        method.hold(tuned)
    weights = tuned.weights()
    tuned.load(weights)
    return weights


def tune_to(config: TuneConfig, out_dir: Path, about: Mapping[str, Any], config_yaml: str, overwrite: bool = False,
            log: Any = None, method: Method | None = None, progress: bool = True) -> dict[str, Any]:  # fmt: skip
    """Tune into a folder: resumable, never half-written; returns what `run.json` says at the end.

    Of the processes of a launch the first one writes; the others follow it and return the same.

    Args:
        config: what to do.
        out_dir: the folder (see `deltatune.core.run`).
        about: added to `run.json`: command, tag.
        config_yaml: the command's options.
        overwrite: throw away a run that is there.
        log: called with named numbers and the number of updates.
        method: what is done otherwise than in ordinary tuning.
        progress: show how far it is.
    """
    method = method or Method()
    settings = dict(method.settings())
    identity = config.identity() | ({"method": settings} if settings else {})
    folder = RunFolder(out_dir, digest_of(identity))
    processes = join(config.backbone.device)
    if not overwrite and (there := processes.lead(lambda: _finished(config, folder))) is not None:
        return {**there, "already_finished": True}
    with _begun(config, method, processes) as (tuned, form, task, before), processes.held(out_dir):
        facts = {
            **about,
            **facts_of(config, tuned, task, method.trained(tuned).values()),
            "before": {split: found.numbers() for split, found in before.items()},
        }
        facts["config"] = identity | {"learning_rate": config.learning_rate}
        if not processes.lead(lambda: _claim(config, folder, facts, config_yaml, overwrite)):
            return {**(folder.finished() or facts), "already_finished": True}
        started = time.perf_counter()
        known = described(config, tuned, form, task)

        def snapshot(step: int) -> None:
            method.hold(tuned)
            checkpoint.save(out_dir / "snapshots" / str(step), tuned, {**known, "step": step})

        hooks = Hooks(on_snapshot=snapshot, state_dir=folder.state, log=log, progress=progress)
        resume = folder.state if has_state(folder.state) else None
        result = tune_prepared(config, tuned, form, task, hooks, resume, method)
        seconds = {"seconds": time.perf_counter() - started, "train_seconds": result.history.seconds}
        facts |= {name: round(value, 3) for name, value in seconds.items()}
        facts |= {"found": dict(found)} if (found := method.found()) else {}
        return processes.lead(lambda: _keep(config, folder, facts, known, result))


def _keep(
    config: TuneConfig, folder: RunFolder, facts: Mapping[str, Any], known: Mapping[str, Any], result: Result
) -> dict[str, Any]:
    """Write what came of the run, and mark it as finished."""
    history = result.history
    step = history.best_step if config.train.select == "best" and history.best_step else history.steps
    checkpoint.save(folder.path / "delta", result.tuned, {**known, "step": step}, result.weights)
    final = {split: scores.numbers() for split, scores in (("dev", result.dev), ("test", result.test)) if scores}
    facts = {**facts, "step": step, "scores": final}
    folder.finish(facts, list(records_of(config, facts, history, final, step)))
    return facts


def _finished(config: TuneConfig, folder: RunFolder) -> dict[str, Any] | None:
    """What a finished run says, tidied up where that can be done and required to be made of what is there now."""
    if (there := folder.finished()) is not None:
        require_unchanged(config, folder.path, there)
        with suppress(DeltatuneError), held(folder.path):
            folder.tidy()
    return there


@contextmanager
def _begun(
    config: TuneConfig, method: Method, processes: Processes
) -> Iterator[tuple[Tuned, Format, Task, Mapping[str, Scores]]]:
    """Everything loaded and attached, and scores before any update; the deltas are taken off again at the end."""

    def begin(load: Load) -> tuple[Tuned, Format, Task, Mapping[str, Scores]]:
        tuned, form, task = prepare(config, load)
        form = method.asks(tuned, form)
        return tuned, form, task, method.begin(tuned, form, task)

    with lent() as load:
        begun = processes.agree(lambda: begin(load))
        try:
            yield begun
        finally:
            begun[0].detach()


def _claim(config: TuneConfig, folder: RunFolder, facts: Mapping[str, Any], config_yaml: str, overwrite: bool) -> bool:
    """Begin the run in its folder; False if another process finished it meanwhile."""
    if not overwrite and (there := begun(folder)) is not None:
        require_unchanged(config, folder.path, there, facts)
    return folder.begin(facts, config_yaml, overwrite)
