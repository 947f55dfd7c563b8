"""The pre-trained model as it is: its scores of words at a mask, and what they say of label words and templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltatune.combos.contexts import classes_of
from deltatune.combos.search_labels import Pairing, best_pairings, class_of, likely_words, nearest_words
from deltatune.combos.search_templates import Kind, templates_of
from deltatune.core.backbone import Backbone
from deltatune.core.batches import pad
from deltatune.core.data import Example, Task
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.loading import load_backbone
from deltatune.core.metrics import score
from deltatune.core.template import Lengths, Template, label_word_ids
from deltatune.core.tune_config import TuneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS = 64
_AS_IT_IS = ("<", "[", ".", ",")  # words that begin so are looked up without a space: no word of a text


@dataclass
class Untouched:
    """A model without deltas, asked by templates; scores at the mask are kept for each template and split.

    Args:
        tuned: the model, nothing attached.
        task: what is asked.
        max_length: longest input in tokens.
    """

    tuned: Tuned
    task: Task
    max_length: int
    _kept: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, config: TuneConfig) -> Untouched:
        """Model and task of a configuration.

        Raises:
            DeltatuneError: the model gives no scores of words at a mask, or the task has answers in words.
        """
        task = config.task.load()
        if not task.labels and not task.regression:
            raise DeltatuneError(f"task {task.name} is text to text; searches need labels or values")
        backbone = load_backbone(config.backbone)
        if backbone.form != "prompt" or backbone.tokenizer is None:
            raise DeltatuneError(f"model {backbone.name} has no scores of words at a mask")
        limit = backbone.max_length
        return cls(attach(backbone, head=False), task, min(config.task.max_length, limit or config.task.max_length))

    @property
    def backbone(self) -> Backbone:
        """The model."""
        return self.tuned.backbone

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        found: Any = self.backbone.tokenizer
        return found

    @property
    def keys(self) -> list[str]:
        """What label words are named after: the labels; of a regression, those of its own words, or low and high."""
        own = list(self.task.config.label_words)
        return list(self.task.labels) if not self.task.regression else own if len(own) == 2 else ["low", "high"]

    def scores(self, template: str, split: str) -> Tensor:
        """Scores over the vocabulary at the mask, (N, V) float32, for the examples of `train` or `dev`."""
        if (template, split) not in self._kept:
            rows: Sequence[Example] = getattr(self.task, split)
            self._kept[template, split] = self._scores(Template.parse(template), rows)
        return self._kept[template, split]

    def judge(self, template: str, words: Mapping[str, str], split: str = "dev") -> float:
        """The task's metric when the untouched model is asked so."""
        ids = label_word_ids(words, self.keys, self.tokenizer)
        chosen = self.scores(template, split)[:, ids]
        examples: Sequence[Example] = getattr(self.task, split)
        if self.task.regression is not None:
            low, high = self.task.regression
            values = (low + (high - low) * chosen.softmax(dim=1)[:, 1]).tolist()
            return score(self.task.metric, values, [example.label for example in examples]).value
        numbers = {label: number for number, label in enumerate(self.task.labels)}
        labels = [numbers[str(example.label)] for example in examples]
        return score(self.task.metric, chosen.argmax(dim=1).tolist(), labels).value

    def pairings(
        self, template: str, likely: int, number: int, seeds: Sequence[int] | None = None, neighbors: int = 30
    ) -> list[Pairing]:
        """Label words (token ids, in the order of `keys`) that classify the training examples best, best first.

        Args:
            template: that asks.
            likely: words of each class.
            number: how many to return.
            seeds: words of which each class's are neighbours.
            neighbors: how many of those.
        """
        scores, train = self.scores(template, "train"), self.task.train
        values = torch.tensor([float(example.label or 0.0) for example in train]) if self.task.regression else None
        labels = torch.tensor(classes_of(self.task)[0]) if values is None else values
        classes = labels if values is None else class_of(values)
        words = likely_words(scores, classes, self.begins_word, len(self.keys), likely)
        if seeds is not None:
            embedding = self.backbone.model.get_output_embeddings().weight.detach().cpu()
            words = nearest_words(words, seeds, embedding, neighbors)
        return best_pairings(scores, labels, words, number)

    def templates(self, filler: Backbone, words: Mapping[str, str], beam: int) -> list[str]:
        """Templates that a text-to-text model fills in around the label words of the training examples, likeliest first.

        Of single texts half are behind, half before the text.
        """
        if filler.tokenizer is None:
            raise DeltatuneError(f"--filler {filler.name}: no tokenizer there")
        shown = [words[key] for key in self.keys]
        rows = [(e.texts, shown[n]) for e, n in zip(self.task.train, classes_of(self.task)[0], strict=True)]
        kinds: tuple[Kind, ...] = ("pair",) if len(self.task.train[0].texts) > 1 else ("end", "front")
        each = max(1, beam // len(kinds))
        found = [text for kind in kinds for text in templates_of(filler.model, filler.tokenizer, kind, rows, beam)[:each]]
        return list(dict.fromkeys(found))

    @cached_property
    def begins_word(self) -> Tensor:
        """Which tokens can be label words, (V,) bool: those that a word with a space in front is, alone."""
        size = self.backbone.model.get_output_embeddings().weight.shape[0]
        known = min(size, len(self.tokenizer))
        special = set(self.tokenizer.all_special_ids)
        words = [self.word(token) for token in range(known)]
        found = self.tokenizer([f" {word}" for word in words], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        usable = [
            ids == [token] and token not in special and not word.startswith(_AS_IT_IS) and bool(word)
            for token, (ids, word) in enumerate(zip(found, words, strict=True))
        ]
        return torch.tensor([*usable, *[False] * (size - known)])

    def word(self, token: int) -> str:
        """The text of a token, without the space in front."""
        return str(self.tokenizer.decode([token])).strip()

    def _scores(self, template: Template, examples: Sequence[Example]) -> Tensor:
        asked = self.task.config
        lengths = Lengths(self.max_length, asked.first_sentence_limit, asked.other_sentence_limit)
        segments = "token_type_ids" in self.tokenizer.model_input_names
        features = []
        for example in examples:
            encoding = template.encode(example.texts, self.tokenizer, lengths, prompt_length=0)
            kinds = {"token_type_ids": encoding.token_type_ids} if segments else {}
            features.append({"input_ids": encoding.input_ids, **kinds})
        pad_id = self.tokenizer.pad_token_id or 0
        found = []
        with torch.inference_mode():
            for start in range(0, len(features), _ROWS):
                batch = pad(features[start : start + _ROWS], pad_id)
                found.append(self.tuned({name: tensor.to(self.backbone.device) for name, tensor in batch.items()}).cpu())
        return torch.cat(found)
