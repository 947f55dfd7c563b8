"""Batches out of a stream of documents, as a function of seed and update: the same after an interruption as without one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deltatune.core.batches import WINDOW, MicroBatch, derived_seed
from deltatune.core.corpus import Document
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, write_json
from deltatune.core.pretraining.config import PretrainConfig
from deltatune.core.pretraining.rows import Ids, Rows, Vocabulary, joined
from deltatune.core.run import digest_of

Documents = Callable[[int], Iterator[Document]] | Iterable[Document]
Examples = Callable[[int], Iterator[tuple[str, str]]]
Arrays = dict[str, NDArray[np.int64]]

POSITIONS = "positions.json"
_DOCUMENTS, _CHARACTERS = 256, 2**20  # encoded in one go; the second bounds memory where documents are long


class Collate(Protocol):
    """How rows become a batch: names to arrays (B, ...), `labels` among them with -100 where nothing is asked."""

    def rows(self, rows: Rows, numbers: Ids, generator: np.random.Generator) -> Arrays:
        """Of the rows `numbers`, something hidden."""

    def examples(self, examples: Sequence[tuple[str, str]]) -> Arrays:
        """Of supervised examples, (source, target) each."""


class Position(NamedTuple):
    """Where a window begins: number of its first batch, its own number, the pass over the documents, documents passed."""

    batch: int
    window: int
    epoch: int
    document: int


@dataclass(frozen=True)
class _Window:
    position: Position
    after: Position
    rows: Rows
    batches: list[Ids]


class Stream:
    """Batches for `fit`: documents are read, encoded and ordered window by window, 50 batches each, none of them kept.

    Rows are shuffled within their window (and, with `batch_tokens`, grouped by length); everything drawn is a function of the
    seed and the batch's number. Of a collection, windows follow each other from the first document to the last, then from
    the first again; of a function of a seed, each window takes the first documents of a seed of its own.

    Args:
        documents: a function seed -> iterator of documents, or a collection that can be iterated over again and again.
        config: what is done with them.
        vocabulary: how they are encoded.
        length: longest row in tokens.
        collate: makes batches of rows.
        examples: a function seed -> iterator of (source, target), for a mixture.

    Raises:
        DeltatuneError: an iterator that can be read but once, or a mixture without examples.
    """

    def __init__(
        self,
        documents: Documents,
        config: PretrainConfig,
        vocabulary: Vocabulary,
        length: int,
        collate: Collate,
        examples: Examples | None = None,
    ) -> None:
        if isinstance(documents, Iterator):
            raise DeltatuneError("documents is an iterator, which can be read but once; give a list or a function of a seed")
        if config.mixture and examples is None:
            raise DeltatuneError(f"mixture is {config.mixture} and there are no examples to mix in; give some")
        self.documents, self.config, self.vocabulary, self.length = documents, config, vocabulary, length
        self.collate, self.supervised = collate, examples
        self.known = [Position(0, 0, 0, 0)]
        self.file: Path | None = None
        self._window: _Window | None = None
        self._reader: tuple[Position, Iterator[Document]] | None = None

    @property
    def size(self) -> int:
        """0: a stream has no epochs."""
        return 0

    def per_epoch(self, accumulation: int = 1) -> int:
        """More updates than any run has."""
        return sys.maxsize

    def remember(self, file: Path | None, resume: Path | None = None) -> None:
        """Keep the positions of windows in `file`; with `resume`, skip to where they are known from there.

        Raises:
            DeltatuneError: the positions there are of another configuration.
        """
        self.file = file
        if resume is None or not resume.exists():
            return
        there = read_json(resume)
        if there["config"] != self._digest:
            raise DeltatuneError(
                f"cannot resume: {resume} is of another objective, seed or batch size; put them back or start anew"
            )
        self.known = [Position(*numbers) for numbers in there["windows"]]

    def micro_batches(self, step: int, accumulation: int = 1, rank: int = 0, world: int = 1) -> list[MicroBatch]:
        """What process `rank` of `world` passes forward in update `step`; weights are shares of the update's labels."""
        whole = [self._batch(number, rank) for number in range(step * accumulation, (step + 1) * accumulation)]
        total = sum(int((arrays["labels"] != -100).sum()) for arrays in whole)
        parts = [{name: array[rank::world] for name, array in arrays.items()} for arrays in whole]
        return [_micro(part, total) for part in parts if (part["labels"] != -100).any()]

    def _batch(self, number: int, rank: int) -> Arrays:
        before, after = (int(count * self.config.mixture + 1e-9) for count in (number, number + 1))
        if after > before and self.supervised is not None:
            drawn = self.supervised(derived_seed("examples", self.config.seed, number))
            return self.collate.examples(list(islice(drawn, self.config.mixture_size)))
        window = self._find(number - before, rank)
        generator = np.random.default_rng(derived_seed("hidden", self.config.seed, number))
        return self.collate.rows(window.rows, window.batches[number - before - window.position.batch], generator)

    def _find(self, number: int, rank: int) -> _Window:
        """The window that holds batch `number` of those made of documents."""
        window = self._window
        if window is None or number < window.position.batch:
            window = self._make(max(known for known in self.known if known.batch <= number), rank)
        while number >= window.after.batch:
            window = self._make(window.after, rank)
        self._window = window
        return window

    def _make(self, position: Position, rank: int) -> _Window:
        if position not in self.known:
            self.known.append(position)
        if rank == 0 and self.file is not None and (position == self.known[-1] or not self.file.exists()):
            write_json(self.file, {"config": self._digest, "windows": self.known})
        objective, seed = self.config.objective, self.config.seed
        reader = self._open(position)
        encoded, used, ended = self._read(reader)
        if not len(encoded.lengths):
            raise DeltatuneError("the texts hold no words; give other texts")
        rows = (self.vocabulary.packed if objective.pack else self.vocabulary.one_each)(encoded, self.length)
        generator = np.random.default_rng(derived_seed("window", seed, position.window))
        batches = self._order(rows.lengths, generator)
        place = (position.epoch + 1, 0) if ended else (position.epoch, position.document + used)
        after = Position(position.batch + len(batches), position.window + 1, *place)
        self._reader = None if ended else (after, reader)
        return _Window(position, after, rows, batches)

    def _open(self, position: Position) -> Iterator[Document]:
        if callable(self.documents):
            return self.documents(derived_seed("documents", self.config.seed, position.window))
        if self._reader is not None and self._reader[0] == position:
            return self._reader[1]
        return islice(iter(self.documents), position.document, None)

    def _read(self, reader: Iterator[Document]) -> tuple[Rows, int, bool]:
        """The encoded documents of a window, how many were read, and whether they were the last."""
        room = self.vocabulary.room(self.length)
        wanted = WINDOW * (self.config.batch_tokens or self.config.batch_size * self.length)
        encoded = [self.vocabulary.encode([Document("")])]
        tokens = used = 0
        ended = False
        while tokens < wanted and not ended:
            portion: list[Document] = []
            characters = 0
            while len(portion) < _DOCUMENTS and characters < _CHARACTERS and not ended:
                document = next(reader, None)
                ended = document is None
                if document is not None:
                    portion.append(document)
                    characters += len(document.text)
            if portion:
                new = self.vocabulary.encode(portion)
                encoded.append(new)
                used += len(portion)
                tokens += int((new.lengths if self.config.objective.pack else np.minimum(new.lengths, room)).sum())
        return joined(encoded), used, ended

    def _order(self, lengths: Ids, generator: np.random.Generator) -> list[Ids]:
        order = generator.permutation(len(lengths))
        budget = self.config.batch_tokens
        if budget is None:
            size = self.config.batch_size
            return [order[start : start + size] for start in range(0, len(order), size)]
        order = order[np.argsort(lengths[order], kind="stable")]
        cuts, first = [], 0
        for place, length in enumerate(lengths[order].tolist()):
            if place > first and length * (place - first + 1) > budget:
                cuts.append(place)
                first = place
        batches = np.split(order, cuts)
        return [batches[number] for number in generator.permutation(len(batches))]

    @property
    def _digest(self) -> str:
        names = ("objective", "batch_size", "batch_tokens", "accumulation", "mixture", "mixture_size", "seed")
        identity = self.config.identity()
        return digest_of({name: identity[name] for name in names} | {"length": self.length})


def _micro(arrays: Arrays, total: int) -> MicroBatch:
    """A part as tensors, with the flat places of its labels, so that no device is asked where they are."""
    places = np.flatnonzero(arrays["labels"] != -100)
    batch = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    rows, width = arrays["input_ids"].shape
    return MicroBatch({**batch, "places": torch.from_numpy(places)}, len(places) / total, rows, width)
