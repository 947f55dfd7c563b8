"""Zero-shot scores: how well label words answer a prompt before anything is tuned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deltatune.core.backbone import Backbone
from deltatune.core.data import Example, Task
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores
from deltatune.core.formats import Feature, PromptFormat
from deltatune.core.metrics import score

_ROWS = 64  # in one forward pass


@dataclass(frozen=True)
class Probe:
    """A task asked with its template, without tuning.

    A masked language model answers at the mask. A text-to-text model reads `<extra_id_0>` there and answers with the token
    that follows `<extra_id_0>`; in both only the label words count.

    Args:
        backbone: the model.
        task: with a template and label words.
        form: the template on the model's tokens.
        features: the encoded examples.
        examples: those that are asked.
    """

    backbone: Backbone
    task: Task
    form: PromptFormat
    features: list[Feature]
    examples: Sequence[Example]

    @classmethod
    def of(cls, backbone: Backbone, task: Task, max_length: int = 256) -> Probe:
        """A probe on the task's dev examples, its test examples where there are none.

        Raises:
            DeltatuneError: no template, no label words, or no examples.
        """
        tokenizer = backbone.tokenizer
        if tokenizer is None:
            raise DeltatuneError(f"model {backbone.name}: no tokenizer; texts cannot be encoded")
        if backbone.form == "text":
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.mask_token, tokenizer.sep_token = "<extra_id_0>", tokenizer.eos_token
        limit = backbone.max_length
        form = PromptFormat(task, tokenizer, min(max_length, limit) if limit else max_length)
        form.pad_id = next(number for number in (backbone.model.config.pad_token_id, form.pad_id) if number is not None)
        examples = task.dev or task.test
        if not examples:
            raise DeltatuneError(f"task {task.name} has neither dev nor test examples to probe")
        return cls(backbone, task, form, form.features(examples), examples)

    @torch.inference_mode()
    def scores(self) -> Scores:
        """The model's scores as it is now; its mode is kept."""
        model = self.backbone.model
        was_training = model.training
        model.eval()
        try:
            logits = torch.cat([self._logits(self.features[i : i + _ROWS]) for i in range(0, len(self.features), _ROWS)])
        finally:
            model.train(was_training)
        batch = self.form.collate(self.features)
        predictions = self.form.predict(logits)
        found = score(self.form.metric, predictions, self.form.references(self.examples))
        loss = float(self.form.loss(logits, batch))
        empty = Scores(found.value, self.form.metric, loss, found.stderr, len(predictions))
        return replace(empty, predictions=predictions, per_example=found.per_example)

    def _logits(self, features: list[Feature]) -> Tensor:
        """Scores over the vocabulary at the answer's place, (B, V)."""
        model: Any = self.backbone.model
        batch = {
            name: tensor.to(self.backbone.device) for name, tensor in self.form.collate(features).items() if name != "labels"
        }
        mask = self.form.tokenizer.mask_token_id
        rows = torch.arange(len(features), device=self.backbone.device)
        if self.backbone.form == "text":
            start = torch.tensor([[model.config.decoder_start_token_id, mask]], device=self.backbone.device)
            logits = model(**batch, decoder_input_ids=start.expand(len(features), -1)).logits[:, 1]
        else:
            logits = model(**batch).logits[rows, (batch["input_ids"] == mask).int().argmax(dim=1)]
        return torch.as_tensor(logits).float().cpu()
