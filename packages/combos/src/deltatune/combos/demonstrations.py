"""Demonstrations: solved training examples behind the query (LM-BFF, ACL 2021; specification of Delta Tuning's few-shot code).

A context is one set of demonstrations for one query: at most one example of each class, or, in the in-context form, any `count`
examples. Logits are averaged over several contexts of a query. Random choices come from numpy's legacy generator, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.core.template import Label, Piece, Sentence, Special, Template
from deltatune.core.template import Literal as Text

Rows = list[int]
_CLS, _MASK, _NOTHING = Special("cls"), Special("mask"), Text("")


def with_demonstrations(template: Template, classes: int) -> Template:
    """`template`, then one solved copy of it for each class: its label word in place of the mask, the texts that follow.

    An example has two texts where the template shows a second one. The copy of class c shows texts n + n c, ... of n texts an
    example. Only pieces that show a text are renumbered (the published conversion also rewrote digits in literal text, and
    counted them: defect of specification 3.5).

    Args:
        template: of the query, with a mask.
        classes: how many copies; a regression has two, for its low and its high half (D17).
    """
    pieces = template.pieces
    for number in range(classes):
        pieces = _joined(pieces, _copy(template, number, Label(number)))
    return Template(pieces)


def in_context(template: Template, count: int, place: Literal["head", "tail"]) -> Template:
    """`template` with `count` solved copies, numbered by instance, before it (the last one first) or behind it."""
    pieces = template.pieces
    for number in range(count):
        copy = _copy(template, number, Label(number, of_demonstration=True))
        pieces = _joined(copy, pieces) if place == "head" else _joined(pieces, copy)
    return Template(pieces)


def texts_shown(template: Template) -> int:
    """How many texts of an example a template shows: 1 or 2."""
    return 1 + any(isinstance(piece, Sentence) and piece.index == 1 for piece in template.pieces)


def _copy(template: Template, number: int, label: Label) -> tuple[Piece, ...]:
    """The template solved: without `cls`, texts and mask replaced."""
    texts, pieces = texts_shown(template), template.pieces
    if _CLS in pieces:
        at = pieces.index(_CLS)
        pieces = _joined(pieces[:at], pieces[at + 1 :])
    return tuple(_solved(piece, texts + texts * number, label) for piece in pieces)


def _solved(piece: Piece, first: int, label: Label) -> Piece:
    if isinstance(piece, Sentence):
        return replace(piece, index=first + piece.index)
    return label if piece == _MASK else piece


def _joined(left: tuple[Piece, ...], right: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """The pieces of the two texts written one after the other."""
    if not left or not right:
        return left + right
    last, first = left[-1], right[0]
    if last == _NOTHING:
        return (*left[:-1], *right)
    if first == _NOTHING:
        return (*left, *right[1:])
    return (*left, *right)


def halves(values: Sequence[float], middle: float) -> list[int]:
    """Class 0 below `middle` and 1 from it up: one rule for samples and demonstrations (D15)."""
    return [int(value >= middle) for value in values]


def candidates_for(query: int | None, supports: int) -> Rows:
    """The training examples that may be shown with a query: all but the query itself (its row, if it is one of them)."""
    return [row for row in range(supports) if row != query]


def similar(
    query: NDArray[np.floating],
    supports: NDArray[np.floating],
    classes: Sequence[int],
    candidates: Sequence[int],
    count: int,
    rate: float = 0.5,
) -> Rows:
    """The candidates most similar to the query, most similar first.

    Of each class at most `int((n // count) * rate)` of the n candidates are kept.

    Args:
        query: sentence vector (d,).
        supports: of the training examples (N, d).
        classes: class number of each training example (N).
        candidates: rows that may be chosen.
        count: number of classes.
        rate: share that is kept.
    """
    if not 0.0 < rate <= 1.0:
        raise DeltatuneError(f"demonstrations: the share that is kept must be above 0 and at most 1, got {rate}")
    vectors = np.asarray(supports, dtype=np.float64)[list(candidates)]
    one = np.asarray(query, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(one)
    cosines = vectors @ one / np.maximum(norms, np.finfo(np.float64).tiny)
    limit = int((len(candidates) // count) * rate)
    kept: Rows = []
    taken = dict.fromkeys(range(count), 0)
    for place in np.argsort(-cosines, kind="stable").tolist():
        row = candidates[place]
        if taken[classes[row]] < limit:
            taken[classes[row]] += 1
            kept.append(row)
    return kept


def draw(candidates: Sequence[int], classes: Sequence[int], count: int, generator: np.random.RandomState) -> Rows:
    """One example of each class, in the order of drawing: the first of every class in a random order of the candidates."""
    chosen: dict[int, int] = {}
    for row in generator.permutation(list(candidates)).tolist():
        chosen.setdefault(classes[row], row)
        if len(chosen) == count:
            break
    return list(chosen.values())


def draw_any(candidates: Sequence[int], count: int, generator: np.random.RandomState) -> Rows:
    """The first `count` of a random order of the candidates, whatever their classes (the in-context form)."""
    return [int(row) for row in generator.permutation(list(candidates))[:count]]


def ordered(chosen: Sequence[int], classes: Sequence[int], count: int) -> Rows:
    """Drawn rows in class order, as the template of `with_demonstrations` shows them.

    Raises:
        DeltatuneError: a class has no example among them.
    """
    found = {classes[row]: row for row in chosen}
    missing = [number for number in range(count) if number not in found]
    if missing:
        raise DeltatuneError(
            f"demonstrations: class number {missing[0]} has no example to show; raise the rate, or give more shots"
        )
    return [found[number] for number in range(count)]


def average(logits: Tensor, samples: int) -> Tensor:
    """Mean logits (N, C) of `samples` contexts a query, from rows (samples * N, C): context 0 of all queries, then context 1, ...

    Raises:
        DeltatuneError: the rows do not divide.
    """
    if samples < 1 or len(logits) % samples:
        raise DeltatuneError(f"{len(logits)} rows of logits are not {samples} contexts of each query")
    return logits.reshape(samples, len(logits) // samples, *logits.shape[1:]).mean(dim=0)


def template_of(sample: int, templates: Sequence[Template]) -> Template:
    """Of several templates, the one that context number `sample` is written with (D18)."""
    return templates[sample % len(templates)]
