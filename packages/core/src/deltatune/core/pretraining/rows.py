"""From documents to rows of token ids: encoding, packing, padding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from deltatune.core.corpus import Document
from deltatune.core.errors import DeltatuneError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int64]
Chances = NDArray[np.float32]

_OPEN = np.float32(-1.0)  # chance of a token whose document leaves it to the objective


@dataclass(frozen=True)
class Rows:
    """Several rows (or encoded documents) in one piece of memory each.

    Args:
        ids: token ids of all rows, one after the other, (N,).
        chance: how likely each token is to be hidden, (N,) float32: 0 for special tokens, -1 where its document leaves that to
            the objective.
        word: distance from each token back to the first token of its word, (N,).
        lengths: tokens of each row, (R,).
    """

    ids: Ids
    chance: Chances
    word: Ids
    lengths: Ids

    @cached_property
    def starts(self) -> Ids:
        """Where each row begins, (R,)."""
        return np.cumsum(self.lengths) - self.lengths

    def padded(self, numbers: Ids, pad_id: int) -> Padded:
        """The rows `numbers`, padded on the right to the longest of them."""
        lengths = self.lengths[numbers]
        columns = np.arange(int(lengths.max()))
        real = columns < lengths[:, None]
        index = np.where(real, self.starts[numbers][:, None] + columns, 0)
        return Padded(
            ids=np.where(real, self.ids[index], pad_id),
            chance=np.where(real, self.chance[index], np.float32(0)),
            first=columns - np.where(real, self.word[index], 0),
            lengths=lengths,
        )


@dataclass(frozen=True)
class Padded:
    """Rows of one batch.

    Args:
        ids: token ids, (B, T).
        chance: see `Rows`; 0 for padding, (B, T).
        first: the column of the first token of each token's word, (B, T).
        lengths: tokens of each row, (B,).
    """

    ids: Ids
    chance: Chances
    first: Ids
    lengths: Ids


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in order; at least one part."""
    names = ("ids", "chance", "word", "lengths")
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Vocabulary:
    """What rows are made with.

    Args:
        tokenizer: a fast tokenizer of the transformers library.
        begin: token before each row; None for none.
        end: token after each row and between packed documents; None for none.
        pad: token that fills up.
        size: rows of the model's embedding.
    """

    tokenizer: PreTrainedTokenizerBase
    begin: int | None
    end: int | None
    pad: int
    size: int

    @cached_property
    def special(self) -> NDArray[np.bool_]:
        """Which tokens are never hidden, (V,)."""
        found = np.zeros(max(self.size, len(self.tokenizer)), dtype=bool)
        found[[number for number in (*self.tokenizer.all_special_ids, self.pad) if number is not None]] = True
        sentinels = [number for token, number in self.tokenizer.get_vocab().items() if token.startswith("<extra_id_")]
        found[np.array(sentinels, dtype=np.int64)] = True
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id != self.pad:
            found[self.tokenizer.unk_token_id] = False  # an unknown word is a word of the text
        return found

    @cached_property
    def ordinary(self) -> Ids:
        """The other tokens, (W,): what a random token is drawn from."""
        unknown = self.tokenizer.unk_token_id
        known = np.unique(np.fromiter(self.tokenizer.get_vocab().values(), dtype=np.int64))
        kept: Ids = known[~self.special[known] & (known != (-1 if unknown is None else unknown)) & (known < self.size)]
        return kept

    @cached_property
    def _encoder(self) -> Tokenizer:
        """The tokenizer's own, which has no cost for each text above that of reading it; text never becomes a special token."""
        encoder = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        encoder.no_padding()
        encoder.no_truncation()
        encoder.encode_special_tokens = True
        return encoder

    @cached_property
    def _keeps_words(self) -> bool:
        """Whether every word between white space is at least one token, so that equal counts mean one token each."""
        parts = json.loads(self._encoder.to_str())
        normalizer, splitter = parts["normalizer"] or {"type": "Lowercase"}, parts["pre_tokenizer"] or {"type": ""}
        first, *others = splitter.get("pretokenizers") or [splitter]
        kept = all(other["type"] == "Split" and other["behavior"] == "Isolated" for other in others)
        plain = normalizer["type"] == "Lowercase" and first["type"] == "WhitespaceSplit"
        return bool(kept and plain and parts["model"]["type"] == "WordLevel")

    def encode(self, documents: Sequence[Document]) -> Rows:
        """Each document as one row without special tokens, empty ones left out; at least one document.

        Raises:
            DeltatuneError: a document has another number of weights than words.
        """
        found = self._encoder.encode_batch_fast([document.text for document in documents], add_special_tokens=False)
        texts = [encoding.ids for encoding in found]
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        ids = np.fromiter(chain.from_iterable(texts), dtype=np.int64, count=int(lengths.sum()))
        word = np.zeros(len(ids), dtype=np.int64)
        chance = np.full(len(ids), _OPEN)
        ends = np.cumsum(lengths).tolist()
        for document, length, end in zip(documents, lengths.tolist(), ends, strict=True):
            if document.weights is None:
                continue
            place = slice(end - length, end)
            if self._keeps_words and length == len(document.weights) == document.text.count(" ") + 1:
                chance[place] = document.weights
            else:
                offsets = self._encoder.encode(document.text, add_special_tokens=False).offsets
                chance[place], word[place] = _weights(document, offsets)
        chance[self.special[ids]] = 0.0
        return Rows(ids, chance, word, lengths[lengths > 0])

    def one_each(self, encoded: Rows, length: int) -> Rows:
        """One row for each encoded document, cut to `length` tokens, special tokens included."""
        return self._framed(encoded, encoded.starts, np.minimum(encoded.lengths, self.room(length)))

    def packed(self, encoded: Rows, length: int) -> Rows:
        """Rows of `length` tokens that hold all documents in order, the end token between two; the last may be shorter."""
        room = self.room(length)
        if self.end is not None:
            borders, special = encoded.starts[1:], {"ids": self.end, "chance": 0.0, "word": 0}
            flat = {name: np.insert(getattr(encoded, name), borders, value) for name, value in special.items()}
            encoded = Rows(**flat, lengths=np.array([len(flat["ids"])]))
        starts = np.arange(0, len(encoded.ids), room)
        return self._framed(encoded, starts, np.minimum(room, len(encoded.ids) - starts))

    def room(self, length: int) -> int:
        """Tokens of a row of `length` that are text."""
        return length - (self.begin is not None) - (self.end is not None)

    def _framed(self, source: Rows, starts: Ids, lengths: Ids) -> Rows:
        """The pieces of `source` from `starts`, `lengths` long, each between the special tokens."""
        before, after = int(self.begin is not None), int(self.end is not None)
        column = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        taken = column + np.repeat(starts, lengths)
        whole = lengths + before + after
        first = np.cumsum(whole) - whole
        place = column + np.repeat(first + before, lengths)
        total = int(whole.sum())
        ids, chance, word = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.float32), np.zeros(total, dtype=np.int64)
        if self.begin is not None:
            ids[first] = self.begin
        if self.end is not None:
            ids[first + whole - 1] = self.end
        # A word that was cut apart begins anew where the cut is.
        ids[place], chance[place], word[place] = source.ids[taken], source.chance[taken], np.minimum(source.word[taken], column)
        return Rows(ids, chance, word, whole)


def _weights(document: Document, offsets: Sequence[tuple[int, int]]) -> tuple[Chances, Ids]:
    """The weight of each token's word, and the distance from the token back to the first of its word."""
    words = document.text.split()
    weights = document.weights or ()
    if len(weights) != len(words):
        raise DeltatuneError(f"a document has {len(words)} words and {len(weights)} weights: {document.text[:60]!r}")
    # The character after each word; a token belongs to the first word that ends behind the token's last character.
    ends = np.zeros(len(words), dtype=np.int64)
    position = 0
    for number, word in enumerate(words):
        position = document.text.index(word, position) + len(word)
        ends[number] = position
    last = np.fromiter((end for _, end in offsets), dtype=np.int64, count=len(offsets))
    owner = np.minimum(np.searchsorted(ends, last), max(0, len(words) - 1))
    columns = np.arange(len(owner))
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    first = begins[np.searchsorted(begins, columns, side="right") - 1] if len(owner) else columns
    return np.asarray(weights, dtype=np.float32)[owner], columns - first
