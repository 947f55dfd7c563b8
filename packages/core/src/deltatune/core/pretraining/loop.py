"""Pre-training a model that is in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from deltatune.core.backbone import Backbone
from deltatune.core.batches import Batch
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores
from deltatune.core.pretraining.config import MaskedLM, PretrainConfig
from deltatune.core.pretraining.objectives import Places, batches_for, masked_loss, span_loss
from deltatune.core.pretraining.probe import Probe
from deltatune.core.pretraining.stream import POSITIONS, Documents, Examples, Stream
from deltatune.core.train import History, Hooks, fit


@dataclass(frozen=True)
class PretrainHooks(Hooks):
    """What `pretrain` calls on the way, beside what `fit` calls.

    Args:
        on_scores: called with the number of updates done and the scores of each probe by the name of its task.
    """

    on_scores: Callable[[int, Mapping[str, Scores]], None] | None = None


def pretrain(
    config: PretrainConfig,
    backbone: Backbone,
    documents: Documents,
    *,
    examples: Examples | None = None,
    probes: Sequence[Probe] = (),
    hooks: PretrainHooks | None = None,
    resume_from: Path | None = None,
) -> History:
    """Train all weights of `backbone` in place on documents; it is frozen and in evaluation mode afterwards.

    The batch of an update and all that is drawn for it are functions of the seed and the update's number: a run resumed after
    update k ends with the weights of one never interrupted, bit for bit on CPU. The state folder also holds where each window
    of documents began, so that going on reads past what was used without encoding it.

    Args:
        config: what to do.
        backbone: of the form prompt for masked language modelling, text for span corruption.
        documents: a function seed -> iterator of documents (each window of 50 batches asks with a seed of its own; it may be
            endless), or a collection that is read from first to last again and again.
        examples: for a mixture, a function seed -> iterator of (source, target) as tokens spell them, without an end token;
            asked with a seed of its own for each batch.
        probes: scored before the first update, every `config.probe_every` updates and at the end, for `hooks.on_scores`; the
            evaluations of the result are the means of their values.
        hooks: what to call on the way.
        resume_from: folder with the state of an interrupted run of the same configuration.

    Raises:
        DeltatuneError: model and objective do not fit, no text, weights or loss that are not finite (see `fit`).
    """
    hooks = hooks or PretrainHooks()
    vocabulary, collate, length = batches_for(backbone, config.objective)
    stream = Stream(documents, config, vocabulary, length, collate, examples)
    stream.remember(_positions(hooks.state_dir), _positions(resume_from))
    model, latest = backbone.model, dict[str, Scores]()

    def evaluate() -> float:
        latest.update({probe.task.name: probe.scores() for probe in probes})
        return math.fsum(scores.value for scores in latest.values()) / len(latest)

    def log(numbers: dict[str, float], step: int) -> None:
        if "dev_score" in numbers and hooks.on_scores is not None:
            hooks.on_scores(step, dict(latest))
        if hooks.log is not None:
            hooks.log(numbers, step)

    if probes and resume_from is None and hooks.on_scores is not None:
        evaluate()
        hooks.on_scores(0, dict(latest))
    places = Places(_head(backbone)) if isinstance(config.objective, MaskedLM) else None
    loss: Callable[[Batch], torch.Tensor]
    loss = partial(span_loss, model) if places is None else partial(masked_loss, model, places)
    inner = Hooks(partial(_switch, backbone), hooks.on_snapshot, log, hooks.state_dir, hooks.progress)
    model.requires_grad_(True)
    try:
        score = evaluate if probes else None
        named = dict(model.named_parameters())
        history = fit(loss, named, stream, config.train, evaluate=score, hooks=inner, resume_from=resume_from)
        if probes and (not history.evaluations or history.evaluations[-1][0] < history.steps):
            history.evaluations.append((history.steps, evaluate()))
            log({"dev_score": history.evaluations[-1][1]}, history.steps)
        return history
    finally:
        model.requires_grad_(False)
        if places is not None:
            places.handle.remove()
        backbone.__dict__.pop("digest", None)  # cached, and no longer that of these weights


def _positions(folder: Path | None) -> Path | None:
    return None if folder is None else folder / POSITIONS


def _switch(backbone: Backbone, training: bool) -> None:
    backbone.model.train(training)


def _head(backbone: Backbone) -> torch.nn.Module:
    path = backbone.sites.lm_head
    if path is None:
        raise DeltatuneError(f"model {backbone.name}: its sites name no lm_head; masked language modelling needs one")
    head: torch.nn.Module = backbone.model.get_submodule(path)
    return head
