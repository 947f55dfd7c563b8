"""How an example becomes a batch, and logits become a loss and a prediction.

One class for each form in which a task is asked: `HeadFormat` (classification head), `PromptFormat` (label words at a mask)
and `TextFormat` (text to text). A feature is one encoded example; `collate` pads several to the longest of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

from deltatune.core.backbone import Backbone
from deltatune.core.batches import Batch, pad, pad_rows
from deltatune.core.cache import kept
from deltatune.core.data import Example, Task, as_text
from deltatune.core.delta import DeltaConfig, SoftPrompt
from deltatune.core.errors import DeltatuneError
from deltatune.core.template import Lengths, Prompt, Template, label_word_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Feature = dict[str, Any]
Prediction = int | float | str


class Format(ABC):
    """What the forms share. Subclasses say how an example is asked and how logits answer it.

    Args:
        task: the task, with its labels.
        tokenizer: of the backbone.
        max_length: longest input in tokens, special tokens included.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.task, self.tokenizer, self.max_length = task, tokenizer, max_length
        self.classes = {label: number for number, label in enumerate(task.labels)}
        self.pad_id: int = tokenizer.pad_token_id or 0

    @property
    def metric(self) -> str:
        """Name of the metric that predictions of this form are scored with."""
        return self.task.metric

    def features(self, examples: Sequence[Example]) -> list[Feature]:
        """Encoded examples, in order, with `labels` where an example has one; those of runs before are found again."""
        return kept(self, self.tokenizer, examples, self._encode)

    @abstractmethod
    def _encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Every example as a feature."""

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Tensors of several features, padded on the right to the longest: (B, T) int64, labels (B,)."""
        batch = pad(features, self.pad_id)
        if all("labels" in feature for feature in features):
            dtype = torch.float32 if self.task.regression else torch.int64
            batch["labels"] = torch.tensor([feature["labels"] for feature in features], dtype=dtype)
        return batch

    def choose(self, feature: Feature, generator: torch.Generator) -> Feature:
        """The feature as one training step sees it; differs from it where an example has several answers."""
        return feature

    def weigh(self, feature: Feature) -> int:
        """What the feature counts in the mean that `loss` is: one, as every other."""
        return 1

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The objective, (), mean over the batch, each feature counted as `weigh` says."""

    @abstractmethod
    def predict(self, output: Tensor) -> list[Prediction]:
        """One prediction for each row of logits: a class number, or a value for a regression; of generated ids: a text."""

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """What predictions are compared with: class numbers, values, or lists of accepted answers.

        Raises:
            DeltatuneError: an example has no label, or one that the task does not know.
        """
        return [self._label(example) for example in examples]

    def name_of(self, prediction: Prediction) -> str | float:
        """A prediction in the user's words: the label, the value or the text."""
        return self.task.labels[prediction] if isinstance(prediction, int) else prediction

    def _label(self, example: Example) -> int | float:
        if self.task.regression is not None:
            if not isinstance(example.label, float):
                raise DeltatuneError(f"example {example.id} of {self.task.name} has no value; this needs labelled examples")
            return example.label
        if example.label not in self.classes:
            raise DeltatuneError(
                f"example {example.id} of {self.task.name} has label {example.label!r}; known labels: {', '.join(self.classes)}"
            )
        return self.classes[str(example.label)]

    def _with_label(self, feature: Feature, example: Example) -> Feature:
        return feature if example.label is None else {**feature, "labels": self._label(example)}


class HeadFormat(Format):
    """Texts into a classification head; cross entropy, or mean squared error for a regression (logits (B, 1))."""

    def _encode(self, examples: Sequence[Example]) -> list[Feature]:
        """The texts, as one or as a pair, cut from the longer end to `max_length`."""
        if not examples:
            return []
        pair = len(examples[0].texts) > 1
        encoded = self.tokenizer(
            [example.texts[0] for example in examples],
            [example.texts[1] for example in examples] if pair else None,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
        )
        return [self._with_label({name: encoded[name][row] for name in encoded}, example) for row, example in enumerate(examples)]

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """See `Format.loss`."""
        if self.task.regression:
            return mse_loss(logits[:, 0], batch["labels"])
        return cross_entropy(logits, batch["labels"])

    def predict(self, output: Tensor) -> list[Prediction]:
        """See `Format.predict`; the first class wins a tie."""
        found: list[Prediction] = output[:, 0].tolist() if self.task.regression else output.argmax(dim=1).tolist()
        return found


class PromptFormat(Format):
    """A template with one mask; the logits of the label words there are the class logits.

    A regression has two label words, for the low and the high end: the prediction is low + (high - low) p, p the probability
    of the second word of the two; the loss is the KL divergence from the target (1 - y, y), y the label scaled to [0, 1].

    Args:
        task: with `template` and `label_words` in its configuration.
        tokenizer: of the backbone.
        max_length: longest input in tokens.
        prompt_length: rows of a soft prompt that the template shows.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, prompt_length: int = 0) -> None:
        super().__init__(task, tokenizer, max_length)
        if not task.config.template:
            raise DeltatuneError(f"task {task.name} has no template; the form prompt needs one (write a YAML task file)")
        if task.regression and not all(map(math.isfinite, task.regression)):
            raise DeltatuneError(f"task {task.name} has no finite bounds; the form prompt needs `regression: [low, high]`")
        self.template, self.prompt_length = Template.parse(task.config.template), prompt_length
        words = dict(task.config.label_words)
        if task.regression and len(words) != 2:
            raise DeltatuneError(f"task {task.name} has {len(words)} label words; a regression needs one for each end")
        self.words = torch.tensor(label_word_ids(words, list(words) if task.regression else task.labels, tokenizer))
        self._encode(task.train[:1])  # a template that shows what no example has fails before anything is written

    def _encode(self, examples: Sequence[Example]) -> list[Feature]:
        """The filled template."""
        asked = self.task.config
        lengths = Lengths(self.max_length, asked.first_sentence_limit, asked.other_sentence_limit)
        segments = "token_type_ids" in self.tokenizer.model_input_names
        result = []
        for example in examples:
            encoding = self.template.encode(example.texts, self.tokenizer, lengths, prompt_length=self.prompt_length)
            kinds = {"token_type_ids": encoding.token_type_ids} if segments else {}
            result.append(self._with_label({"input_ids": encoding.input_ids, **kinds}, example))
        return result

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """See the class; `logits` (B, V)."""
        chosen = logits[:, self.words.to(logits.device)]
        if not self.task.regression:
            return cross_entropy(chosen, batch["labels"])
        low, high = self.task.regression
        share = (batch["labels"] - low) / (high - low)
        return kl_div(log_softmax(chosen, dim=1), torch.stack([1 - share, share], dim=1), reduction="batchmean")

    def predict(self, output: Tensor) -> list[Prediction]:
        """See the class; `output` are logits (B, V)."""
        chosen = output[:, self.words.to(output.device)]
        if not self.task.regression:
            return list(chosen.argmax(dim=1).tolist())
        low, high = self.task.regression
        return list((low + (high - low) * chosen.softmax(dim=1)[:, 1]).tolist())


class TextFormat(Format):
    """Text to text: the answer is generated; the loss is the mean over answer tokens (modeconn, ensemble, subspace).

    Args:
        task: any task; a classification task is written as text.
        tokenizer: of the backbone.
        max_length: longest input in tokens.
        max_answer: longest answer in tokens, end token included.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, max_answer: int = 64) -> None:
        super().__init__(task, tokenizer, max_length)
        self.max_answer = max_answer

    @property
    def metric(self) -> str:
        """The metric of texts."""
        return self.task.text_metric

    def _encode(self, examples: Sequence[Example]) -> list[Feature]:
        """The input's ids, the ids of every accepted answer, and those of the first answer as labels."""
        if not examples:
            return []
        texts = [as_text(self.task, example) for example in examples]
        sources = self.tokenizer([source for source, _ in texts], truncation=True, max_length=self.max_length)["input_ids"]
        answers = [
            self.tokenizer(list(found), truncation=True, max_length=self.max_answer)["input_ids"] if found else []
            for _, found in texts
        ]
        return [
            {"input_ids": ids, "answers": found, **({"labels": found[0]} if found else {})}
            for ids, found in zip(sources, answers, strict=True)
        ]

    def collate(self, features: Sequence[Feature]) -> Batch:
        """As `Format.collate`, with labels (B, L) padded with -100."""
        batch = pad(features, self.pad_id)
        if all("labels" in feature for feature in features):
            batch["labels"] = pad_rows([feature["labels"] for feature in features], -100)
        return batch

    def choose(self, feature: Feature, generator: torch.Generator) -> Feature:
        """One of the answers, drawn uniformly."""
        if len(feature["answers"]) < 2:
            return feature
        number = int(torch.randint(len(feature["answers"]), (), generator=generator))
        return {**feature, "labels": feature["answers"][number]}

    def weigh(self, feature: Feature) -> int:
        """The tokens of its answer."""
        return max(1, len(feature["labels"]))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy, mean over the answer tokens of the batch; `logits` (B, L, V)."""
        return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)

    def predict(self, output: Tensor) -> list[Prediction]:
        """Generated ids (B, L) as texts without special tokens."""
        return [text.strip() for text in self.tokenizer.batch_decode(output, skip_special_tokens=True)]

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """The accepted answers of each example, as plain text."""
        return [[answer.removeprefix("<extra_id_0>") for answer in as_text(self.task, example)[1]] for example in examples]


def build_format(backbone: Backbone, task: Task, max_length: int = 256, deltas: Sequence[DeltaConfig] = ()) -> Format:
    """The format that the backbone's form asks for.

    Args:
        backbone: with a tokenizer.
        task: what is asked.
        max_length: longest input in tokens; lowered to what the model's positions leave beside the deltas.
        deltas: what is attached.

    Raises:
        DeltatuneError: no tokenizer; no template, words or labels where the form needs them; no room; a prompt shown nowhere.
    """
    if backbone.tokenizer is None:
        raise DeltatuneError(f"model {backbone.name}: no tokenizer; texts cannot be encoded")
    taken, limit = sum(delta.reserved_positions for delta in deltas), backbone.max_length
    length = min(max_length, limit - taken) if limit else max_length
    least = backbone.tokenizer.num_special_tokens_to_add(pair=True) + 1
    if length < least:
        raise DeltatuneError(
            f"texts may have {length} tokens (max_length {max_length}; of {limit or 'any number of'} positions of the model the "
            f"deltas take {taken}), and {least} is the least; raise --max_length or shorten the prompt"
        )
    prompts = [delta for delta in deltas if isinstance(delta, SoftPrompt)]
    form = _form(backbone, task, backbone.tokenizer, length, sum(prompt.length for prompt in prompts))
    shown = isinstance(form, PromptFormat) and Prompt() in form.template.pieces
    if not shown and any(prompt.position == "template" for prompt in prompts):
        raise DeltatuneError(f"task {task.name} in form '{backbone.form}' shows no '*prompt*'; give another soft_prompt.position")
    # A decoder that classifies finds the end of a text by the model's own padding, which its tokenizer need not know.
    form.pad_id = next(number for number in (backbone.model.config.pad_token_id, form.pad_id) if number is not None)
    return form


def _form(backbone: Backbone, task: Task, tokenizer: PreTrainedTokenizerBase, length: int, rows: int) -> Format:
    if backbone.form == "text":
        return TextFormat(task, tokenizer, length)
    if not task.labels and not task.regression:
        raise DeltatuneError(f"task {task.name} is text to text; form '{backbone.form}' needs labels: give a text-to-text model")
    if backbone.form == "prompt":
        return PromptFormat(task, tokenizer, length, rows)
    return HeadFormat(task, tokenizer, length)
