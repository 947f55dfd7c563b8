"""Scoring a tuned model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from deltatune.core.batches import Batch
from deltatune.core.data import Example
from deltatune.core.delta import Tuned, forward_with
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Feature, Format, Prediction, TextFormat
from deltatune.core.metrics import DEFINITIONS, score
from deltatune.core.weights import Weights

Loss = tuple[float, int]  # of a batch, and what it weighs in the mean


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Args:
        value: of the task's metric; nan where it is undefined.
        metric: its name.
        loss: of the teacher-forced objective, mean over examples (over answer tokens for text); nan without labels.
        stderr: standard error of the value over examples, where the metric is a mean; else None.
        n: number of examples.
        predictions: class numbers, values or texts, in the order of the examples.
        per_example: score of each example where the metric is a mean; else None.
        references: what the predictions were compared with.
        others: names of the metrics that are reported besides (see `extra`).
    """

    value: float
    metric: str
    loss: float
    stderr: float | None
    n: int
    predictions: list[Prediction] = field(repr=False, default_factory=list)
    per_example: list[float] | None = field(repr=False, default=None)
    references: list[Any] = field(repr=False, default_factory=list)
    others: tuple[str, ...] = ()

    @property
    def extra(self) -> dict[str, float]:
        """Values of `others`; computed when asked for, since an evaluation along the way needs none of them."""
        return {name: score(name, self.predictions, self.references).value for name in self.others}

    def numbers(self) -> dict[str, Any]:
        """The scores for a record, those of `extra` under that name; None where a number is not defined: JSON has no nan."""
        kept = {name: getattr(self, name) for name in ("value", "metric", "loss", "stderr", "n")}
        extra = {name: _defined(value) for name, value in self.extra.items()}
        return {name: _defined(item) for name, item in kept.items()} | ({"extra": extra} if extra else {})


def _defined(item: Any) -> Any:
    return None if isinstance(item, float) and math.isnan(item) else item


_WORTH_PADDING = 1024  # padded tokens up to which a batch is too small to be split for its padding's sake


def evaluate(
    tuned: Tuned, form: Format, examples: Sequence[Example], features: Sequence[Feature] | None = None, tokens: int = 16384
) -> Scores:
    """Score `tuned` on labelled examples: no gradient, evaluation mode, the mode from before restored.

    Args:
        tuned: the model.
        form: how the examples are asked.
        examples: with labels or answers.
        features: the encoded examples, if they are at hand already.
        tokens: most padded input tokens in one forward pass.
    """
    encoded = list(features) if features is not None else form.features(examples)
    predictions, losses = run(tuned, form, encoded, tokens)
    return _scored(form, examples, predictions, losses)


def _scored(form: Format, examples: Sequence[Example], predictions: list[Prediction], losses: Sequence[Loss]) -> Scores:
    references = form.references(examples)
    found = score(form.metric, predictions, references)
    loss = math.fsum(value * weight for value, weight in losses) / max(1, sum(weight for _, weight in losses))
    return Scores(
        value=found.value,
        metric=form.metric,
        loss=loss if losses else float("nan"),
        stderr=found.stderr,
        n=len(predictions),
        predictions=predictions,
        per_example=found.per_example,
        references=references,
        others=_others(form),
    )


def evaluate_many(
    tuned: Tuned, form: Format, examples: Sequence[Example], points: Sequence[Weights], features: Sequence[Feature] | None = None
) -> list[Scores]:
    """The scores with each of several values of the deltas, all of them in every forward pass; `tuned` keeps its own.

    Meant for a few short examples: so short a pass waits for its calls and not for its products, which is what is saved here.
    `benchmarks/modeconn_speed.py` measures it beside one point after the other.

    Args:
        tuned: the model, whose answer is not a generated text.
        form: how the examples are asked.
        examples: with labels.
        points: values of the deltas, as `Tuned.weights` has them.
        features: the encoded examples, if they are at hand already.

    Raises:
        DeltatuneError: the form is text; other names or shapes than the model's deltas have.
    """
    if isinstance(form, TextFormat):
        raise DeltatuneError("evaluate_many: answers are generated with one set of weights at a time; use evaluate")
    encoded = list(features) if features is not None else form.features(examples)
    stacked = {name: torch.stack([point[name] for point in points]).to(tuned.backbone.device) for name in points[0]}
    predictions: list[dict[int, Prediction]] = [{} for _ in points]
    losses: list[list[Loss]] = [[] for _ in points]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]["input_ids"]))
    was_training = tuned.training
    tuned.eval()
    try:
        # The other kernels of attention are not batched over weights.
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
            for rows in _portions(order, encoded, _WORTH_PADDING):
                found = form.collate([encoded[i] for i in rows])
                batch = {name: tensor.to(tuned.backbone.device) for name, tensor in found.items()}
                every = torch.func.vmap(lambda point, batch=batch: forward_with(tuned, point)(batch))(stacked)
                for number, logits in enumerate(every):
                    predictions[number] |= dict(zip(rows, form.predict(logits), strict=True))
                    losses[number] += [(float(form.loss(logits, batch)), len(rows))] if "labels" in batch else []
    finally:
        tuned.train(was_training)
    return [
        _scored(form, examples, [own[i] for i in range(len(encoded))], lost)
        for own, lost in zip(predictions, losses, strict=True)
    ]


def _others(form: Format) -> tuple[str, ...]:
    """The task's further metrics, by the names they have where texts answer; those that cannot score texts are left out."""
    names = form.task.config.extra_metrics
    if isinstance(form, TextFormat):
        kinds = {name: DEFINITIONS[name] for name in names}
        names = tuple(name for name in (n if k.inputs == "texts" else k.as_text for n, k in kinds.items()) if name)
    return tuple(name for name in names if name != form.metric)


def run(tuned: Tuned, form: Format, features: Sequence[Feature], tokens: int = 16384) -> tuple[list[Prediction], list[Loss]]:
    """Predictions in the order of `features`, and (loss, weight) of each batch that has labels.

    Batches hold examples of similar length and at most `tokens` padded input tokens, at least one example.
    """
    order = sorted(range(len(features)), key=lambda i: -len(features[i]["input_ids"]))
    predictions: dict[int, Prediction] = {}
    losses: list[Loss] = []
    was_training = tuned.training
    tuned.eval()
    try:
        with torch.inference_mode():
            # An answer is generated token by token, which costs about the same for few texts as for many.
            worth = tokens if isinstance(form, TextFormat) else _WORTH_PADDING
            for rows in _portions(order, features, tokens, worth):
                batch = {
                    name: tensor.to(tuned.backbone.device) for name, tensor in form.collate([features[i] for i in rows]).items()
                }
                try:
                    found, loss = _answer(tuned, form, batch)
                except torch.OutOfMemoryError as error:
                    raise DeltatuneError(
                        f"memory is too small to score {len(rows)} examples of {batch['input_ids'].shape[1]} tokens; "
                        "lower --max_length, or compute on another --device"
                    ) from error
                predictions |= dict(zip(rows, found, strict=True))
                losses += [loss] if loss is not None else []
    finally:
        tuned.train(was_training)
    return [predictions[i] for i in range(len(features))], losses


def _answer(tuned: Tuned, form: Format, batch: Batch) -> tuple[list[Prediction], Loss | None]:
    labels = batch.get("labels")
    if isinstance(form, TextFormat):
        loss = None if labels is None else (float(form.loss(tuned(batch), batch)), int((labels != -100).sum()))
        return form.predict(tuned.generate(batch, max_new_tokens=form.max_answer)), loss
    logits = tuned(batch)
    return form.predict(logits), None if labels is None else (float(form.loss(logits, batch)), len(labels))


def _portions(order: list[int], features: Sequence[Feature], tokens: int, worth: int = _WORTH_PADDING) -> list[list[int]]:
    """`order` (longest first) cut where the next example would make a batch of more than `tokens` padded tokens.

    A batch of `worth` padded tokens also ends where examples get so much shorter than its first one that padding would cost
    more than a further batch.
    """
    portions: list[list[int]] = []
    width = 0
    for i in order:
        own = len(features[i]["input_ids"])
        held = width * len(portions[-1]) if portions else 0
        if portions and held + width <= tokens and (held < worth or own > 0.75 * width):
            portions[-1].append(i)
        else:
            portions.append([i])
            width = own
    return portions
