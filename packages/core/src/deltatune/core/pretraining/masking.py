"""Hiding tokens: masked language modelling and span corruption, as functions of rows and a generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltatune.core.pretraining.config import MaskedLM, SpanCorruption
from deltatune.core.pretraining.rows import Ids, Padded

Hidden = NDArray[np.bool_]


def mask_tokens(
    rows: Padded, config: MaskedLM, mask_id: int, ordinary: Ids, generator: np.random.Generator
) -> tuple[Ids, Hidden]:
    """The rows as the model sees them, (B, T), and which tokens are hidden, (B, T).

    A word is hidden as a whole with the chance its document gives it, a token of another document with `config.share`; special
    tokens and padding never are. At least one token of the batch is hidden, if any may be.

    Args:
        rows: the batch.
        config: the shares.
        mask_id: the mask token.
        ordinary: what random tokens are drawn from.
        generator: of everything drawn.
    """
    chance = np.where(rows.chance < 0, np.float32(config.share), rows.chance)
    drawn = generator.random(chance.shape, dtype=np.float32)
    drawn = np.take_along_axis(drawn, rows.first, axis=1)  # one draw for each word
    hidden: Hidden = drawn < chance
    if not hidden.any():
        hidden.flat[int(np.argmax(np.where(chance > 0, chance - drawn, -np.inf)))] = bool((chance > 0).any())
    shown = rows.ids.copy()
    places = np.flatnonzero(hidden)
    fate = generator.random(len(places), dtype=np.float32)
    shown.flat[places[fate < config.mask]] = mask_id
    swapped = places[fate >= 1.0 - config.random]
    shown.flat[swapped] = ordinary[generator.integers(len(ordinary), size=len(swapped))]
    return shown, hidden


def corrupt(ids: Ids, hidden: Hidden, sentinels: Ids, end: int) -> tuple[Ids, Ids]:
    """A row as it is asked and its answer: `a S0 c` and `S0 b end` where b is hidden.

    Hidden tokens side by side are one span. A span that no sentinel is left for stays as it is.

    Args:
        ids: the row, (T,).
        hidden: which of its tokens are hidden, (T,).
        sentinels: their ids, in order.
        end: token after the answer.
    """
    begins = hidden & ~np.concatenate(([False], hidden[:-1]))
    number = np.cumsum(begins) - 1
    hidden = hidden & (number < len(sentinels))
    begins &= hidden
    marks = sentinels[np.minimum(number, len(sentinels) - 1)]
    asked = np.where(begins, marks, ids)[~hidden | begins]
    # Each hidden token stands for itself, the first of a span for its sentinel too.
    answer = np.stack([marks[hidden], ids[hidden]], axis=1)[np.stack([begins[hidden], np.full(int(hidden.sum()), True)], axis=1)]
    return asked, np.append(answer, end)


def choose_hidden(rows: Padded, row: int, config: SpanCorruption, generator: np.random.Generator) -> Hidden:
    """Which tokens of a row are hidden, (T,): random spans, or words (see `SpanCorruption`); special tokens never are."""
    length = int(rows.lengths[row])
    chance = rows.chance[row, :length]
    free = chance != 0
    if not free.any():
        return np.zeros(length, dtype=bool)
    if config.words is None:
        hidden: Hidden = _spans(length, config, generator) & free
        if not hidden.any():
            hidden[generator.choice(np.flatnonzero(free))] = True
        return hidden
    return _words(chance, rows.first[row, :length], config, generator)


def _words(chance: NDArray[np.float32], first: Ids, config: SpanCorruption, generator: np.random.Generator) -> Hidden:
    heads = np.flatnonzero((first == np.arange(len(first))) & (chance != 0))
    salient = (chance[heads] > config.salient) | (chance[heads] < 0)
    wanted, others = heads[salient], heads[~salient]
    words = config.words or (1,)
    count = min(words[int(generator.integers(len(words)))], len(wanted))
    chosen = generator.permutation(wanted)[:count]
    if len(others) and (generator.random() < config.other or not count):
        chosen = np.append(chosen, others[int(generator.integers(len(others)))])
    starts = np.zeros(len(first), dtype=bool)
    starts[chosen] = True
    hidden: Hidden = starts[first] & (chance != 0)
    return hidden


def _spans(length: int, config: SpanCorruption, generator: np.random.Generator) -> Hidden:
    """Random spans as T5's: a visible stretch, a hidden one, and so on, each of at least one token and of random length."""
    count = min(max(round(length * config.density), 1), length - 1)
    if count < 1:
        return np.ones(length, dtype=bool)
    spans = min(max(round(count / config.mean_length), 1), count, length - count)
    shown, lost = _parts(length - count, spans, generator), _parts(count, spans, generator)
    return np.repeat(np.tile([False, True], spans), np.stack([shown, lost], axis=1).ravel())


def _parts(total: int, count: int, generator: np.random.Generator) -> Ids:
    """`count` random lengths from 1 that add up to `total`, every division as likely."""
    cuts = np.sort(generator.permutation(total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))
