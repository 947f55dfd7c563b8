"""Automatic label words (LM-BFF): the words that a pre-trained model finds likely at the mask, and which classify best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import score

MOST_TUPLES = 1_000_000


@dataclass(frozen=True)
class Pairing:
    """One word for each class (their token ids, in class order), and its score on the training examples."""

    words: tuple[int, ...]
    score: float


def class_of(values: Tensor) -> Tensor:
    """Of a regression: 1 above the median of the training values, else 0; (N,) int64."""
    ordered = values.double().sort().values
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return (values.double() > median).long()


def likely_words(scores: Tensor, classes: Tensor, begins_word: Tensor, count: int, number: int) -> list[list[int]]:
    """For each class the `number` words with the highest mean score over its examples, most likely first.

    Args:
        scores: at the mask, over the vocabulary, of the untouched model (N, V).
        classes: class number of each example (N,).
        begins_word: which tokens begin a word (V,), bool.
        count: number of classes.
        number: how many words a class.

    Raises:
        DeltatuneError: a class has no example.
    """
    found: list[list[int]] = []
    for name in range(count):
        own = scores[classes == name]
        if not len(own):
            raise DeltatuneError(f"search labels: class number {name} has no training example")
        ranked = own.double().mean(dim=0).sort(descending=True, stable=True).indices.tolist()
        found.append([word for word in ranked if begins_word[word]][:number])
    return found


def nearest_words(likely: Sequence[Sequence[int]], seeds: Sequence[int], embedding: Tensor, number: int) -> list[list[int]]:
    """Of each class's likely words the `number` nearest to its seed word, by cosine of the output embeddings (V, d)."""
    unit = torch.nn.functional.normalize(embedding.double(), dim=1)
    found = []
    for words, seed in zip(likely, seeds, strict=True):
        ranked = (unit @ unit[seed]).sort(descending=True, stable=True).indices.tolist()
        kept = set(words)
        found.append([word for word in ranked if word in kept][:number])
    return found


def best_pairings(scores: Tensor, labels: Tensor, likely: Sequence[Sequence[int]], number: int | None = None) -> list[Pairing]:
    """All tuples of likely words, one for each class, best training score first.

    A tuple's score is the accuracy of the greatest of its words; of a regression (labels of floating type, two words) the
    Pearson correlation of the second word's share with the value, -1 for twice the same word. Words may repeat across classes.

    Args:
        scores: as for `likely_words`.
        labels: class numbers (N,) int64, or values of a floating type.
        likely: words of each class.
        number: how many to keep; None keeps all (the published -1 lost the last one: D38).

    Raises:
        DeltatuneError: more than a million tuples.
    """
    tuples = math.prod(len(words) for words in likely)
    if tuples > MOST_TUPLES:
        raise DeltatuneError(
            f"search labels: {tuples:,} combinations of words are too many (at most {MOST_TUPLES:,}); lower --k_likely, or give "
            "--seed_words with --k_neighbors"
        )
    values = scores.double()
    found = []
    for words in itertools.product(*likely):
        chosen = values[:, list(words)]
        if not labels.is_floating_point():
            found.append(Pairing(words, (chosen.argmax(dim=1) == labels).double().mean().item()))
        else:
            same = len(set(words)) < len(words)
            share = chosen.softmax(dim=1)[:, 1].tolist()
            found.append(Pairing(words, -1.0 if same else score("pearson", share, labels.tolist()).value))
    found.sort(key=lambda pairing: -math.inf if math.isnan(pairing.score) else pairing.score, reverse=True)
    return found if number is None else found[:number]
