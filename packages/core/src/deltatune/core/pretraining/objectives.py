"""The two objectives on a model: batches and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deltatune.core.backbone import Backbone
from deltatune.core.batches import Batch
from deltatune.core.errors import DeltatuneError
from deltatune.core.pretraining.config import MaskedLM, Objective, SpanCorruption
from deltatune.core.pretraining.masking import choose_hidden, corrupt, mask_tokens
from deltatune.core.pretraining.rows import Ids, Rows, Vocabulary
from deltatune.core.pretraining.stream import Arrays, Collate

_LONGEST = 512  # where neither model nor user says how long a row is


@dataclass(frozen=True)
class MaskedBatches:
    """Rows with hidden tokens: input_ids, attention_mask, labels (B, T), and position_ids where they are shifted.

    Args:
        config: the objective.
        vocabulary: of the model.
        mask_id: the mask token.
        first_position: of the first token of a row.
        pad_position: of padding.
    """

    config: MaskedLM
    vocabulary: Vocabulary
    mask_id: int
    first_position: int
    pad_position: int

    def rows(self, rows: Rows, numbers: Ids, generator: np.random.Generator) -> Arrays:
        """See `Collate`."""
        padded = rows.padded(numbers, self.vocabulary.pad)
        shown, hidden = mask_tokens(padded, self.config, self.mask_id, self.vocabulary.ordinary, generator)
        columns = np.arange(shown.shape[1])
        real = columns < padded.lengths[:, None]
        batch = {
            "input_ids": shown,
            "attention_mask": real.astype(np.int64),
            "labels": np.where(hidden, padded.ids, -100),
        }
        if self.config.shift:
            offsets = generator.integers(self.config.shift + 1, size=(len(shown), 1))
            offsets *= generator.random((len(shown), 1)) < self.config.shifted
            positions = self.first_position + columns + offsets * (columns > 0)
            batch["position_ids"] = np.where(real, positions, self.pad_position)
        return batch

    def examples(self, examples: Sequence[tuple[str, str]]) -> Arrays:
        """Not for this objective (`PretrainConfig` refuses the mixture)."""
        raise DeltatuneError("a masked language model has no decoder that could learn texts")


@dataclass(frozen=True)
class SpanBatches:
    """Rows with hidden spans: input_ids, attention_mask (B, T), labels (B, L).

    Args:
        config: the objective.
        vocabulary: of the model.
        sentinels: ids of `<extra_id_0>` and those that follow.
        end: token after an answer.
    """

    config: SpanCorruption
    vocabulary: Vocabulary
    sentinels: Ids
    end: int

    def rows(self, rows: Rows, numbers: Ids, generator: np.random.Generator) -> Arrays:
        """See `Collate`."""
        padded = rows.padded(numbers, self.vocabulary.pad)
        pairs = []
        for row, length in enumerate(padded.lengths.tolist()):
            hidden = choose_hidden(padded, row, self.config, generator)
            pairs.append(corrupt(padded.ids[row, :length], hidden, self.sentinels, self.end))
        return self._batch([asked for asked, _ in pairs], [answer for _, answer in pairs])

    def examples(self, examples: Sequence[tuple[str, str]]) -> Arrays:
        """See `Collate`."""
        if not examples:
            raise DeltatuneError("the mixture has no examples; give some, or leave it out")
        options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
        asked, answers = (self.vocabulary.tokenizer([pair[side] for pair in examples], **options)["input_ids"] for side in (0, 1))
        ended = [[np.array([*ids, self.end], dtype=np.int64) for ids in texts] for texts in (asked, answers)]
        return self._batch(*ended)

    def _batch(self, asked: list[Ids], answers: list[Ids]) -> Arrays:
        ids = _padded(asked, self.vocabulary.pad)
        lengths = np.array([len(row) for row in asked])
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask, "labels": _padded(answers, -100)}


def _padded(rows: list[Ids], fill: int) -> Ids:
    lengths = np.array([len(row) for row in rows])
    result = np.full((len(rows), int(lengths.max())), fill, dtype=np.int64)
    result[np.arange(result.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return result


class Places:
    """Keeps the vocabulary head to the places that are asked: states (B, T, d) become (1, N, d) in front of it.

    Of a vocabulary of 50,000, scores at 15% of the places are most of what a whole row's would cost in time and memory.
    """

    def __init__(self, head: nn.Module) -> None:
        self.places: Tensor | None = None
        self.handle = head.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.places is None:
            return None
        return (args[0].flatten(0, 1)[self.places].unsqueeze(0), *args[1:])


def masked_loss(model: nn.Module, places: Places, batch: Batch) -> Tensor:
    """Mean cross entropy at the hidden places, ()."""
    places.places = batch["places"]
    try:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
        logits = model(**inputs).logits[0]
    finally:
        places.places = None
    return cross_entropy(logits.float(), batch["labels"].flatten()[batch["places"]])


def span_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy over the answers' tokens, ()."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = batch["labels"]
    start = model.prepare_decoder_input_ids_from_labels(labels=labels)  # type: ignore[operator]
    logits: Tensor = model(**inputs, decoder_input_ids=start).logits
    return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)


def batches_for(backbone: Backbone, objective: Objective) -> tuple[Vocabulary, Collate, int]:
    """How the model's rows are made: its vocabulary, its batches, the longest row.

    Raises:
        DeltatuneError: no tokenizer, no mask or sentinels, an objective that the model has no form for, or rows too long.
    """
    tokenizer = backbone.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        raise DeltatuneError(f"model {backbone.name}: pre-training needs its fast tokenizer (tokenizer.json)")
    kind, form = ("mlm", "prompt") if isinstance(objective, MaskedLM) else ("span", "text")
    if backbone.form != form:
        raise DeltatuneError(f"model {backbone.name}: objective {kind} needs the form {form}, and it has {backbone.form}")
    config = backbone.model.config
    pad = next(number for number in (config.pad_token_id, tokenizer.pad_token_id, 0) if number is not None)
    size = backbone.model.get_input_embeddings().weight.shape[0]
    if isinstance(objective, SpanCorruption):
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else config.eos_token_id
        known = tokenizer.get_vocab()
        sentinels = [known[f"<extra_id_{i}>"] for i in range(len(known)) if f"<extra_id_{i}>" in known]
        if not sentinels or end is None:
            raise DeltatuneError(f"model {backbone.name}: its tokenizer has no <extra_id_0> or no end token for span corruption")
        vocabulary = Vocabulary(tokenizer, None, end, pad, size)
        return vocabulary, SpanBatches(objective, vocabulary, np.array(sentinels), end), objective.max_length or _LONGEST
    begin = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    vocabulary = Vocabulary(tokenizer, begin, end, pad, size)
    positions = backbone.position_ids(torch.tensor([[backbone.mask_id]]))
    roberta = "roberta" in config.model_type
    collate = MaskedBatches(objective, vocabulary, backbone.mask_id, int(positions), pad if roberta else 0)
    return vocabulary, collate, _row_length(backbone, objective)


def _row_length(backbone: Backbone, objective: MaskedLM) -> int:
    limit = backbone.max_length
    if objective.shift and limit is None:
        raise DeltatuneError(f"model {backbone.name}: shift {objective.shift} needs absolute positions, which it does not have")
    room = None if limit is None else limit - objective.shift
    length = objective.max_length or min(_LONGEST, room if room is not None else _LONGEST)
    if (room is not None and length > room) or length < 4:
        raise DeltatuneError(
            f"model {backbone.name} has {limit} positions; rows of {length} tokens shifted by {objective.shift} do not fit; "
            "lower max_length or shift"
        )
    return length
