"""Batches out of a stream of documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from deltatune.core.corpus import Document
from deltatune.core.errors import DeltatuneError
from deltatune.core.pretraining import MaskedLM, PretrainConfig, SpanCorruption
from deltatune.core.pretraining.rows import Rows, Vocabulary
from deltatune.core.pretraining.stream import Stream

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
BEGIN, PAD, END, UNKNOWN, MASK, S0, S1, S2 = range(8)
A = len(SPECIAL)  # id of the first word


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The words w0 ... w19, ids from 8."""
    words = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(20))])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return Vocabulary(transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named), BEGIN, END, PAD, len(words))


def _text(*numbers: int) -> Document:
    return Document(" ".join(f"w{number}" for number in numbers))


def _rows(rows: Rows) -> list[list[int]]:
    return [rows.ids[a : a + n].tolist() for a, n in zip(rows.starts, rows.lengths, strict=True)]


class _Plain:
    """Batches that show their rows."""

    def rows(self, rows, numbers, generator):
        padded = rows.padded(numbers, PAD)
        return {"input_ids": padded.ids, "labels": np.where(padded.ids >= A, padded.ids, -100)}

    def examples(self, examples):
        return {"input_ids": np.array([[int(source)] for source, _ in examples]), "labels": np.ones((len(examples), 1), int)}


def _stream(vocabulary, documents, **settings) -> Stream:
    examples = settings.pop("examples", None)
    pack = settings.pop("pack", False)
    kind = SpanCorruption if examples else MaskedLM
    return Stream(documents, PretrainConfig(kind(pack=pack), **settings), vocabulary, 8, _Plain(), examples)


def _seen(stream: Stream, steps: range) -> list[list[list[int]]]:
    return [part.batch["input_ids"].tolist() for step in steps for part in stream.micro_batches(step)]


DOCUMENTS = [_text(*(i * 7 + j for j in range(1 + i % 5))) for i in range(3)] + [_text(i, i % 3) for i in range(12)]


def _endless(seed: int) -> Iterator[Document]:
    drawn = np.random.default_rng(seed)
    while True:
        yield _text(*drawn.integers(20, size=int(drawn.integers(1, 6))))


@pytest.mark.parametrize("documents", [DOCUMENTS, _endless], ids=["collection", "function"])
@pytest.mark.parametrize("portion", [{"batch_size": 4}, {"batch_tokens": 30}], ids=["rows", "tokens"])
def test_the_batch_of_an_update_is_a_function_of_seed_and_number(vocabulary, documents, portion, tmp_path):
    whole = _stream(vocabulary, documents, **portion)
    whole.remember(tmp_path / "positions.json")
    seen = _seen(whole, range(130))
    assert _seen(_stream(vocabulary, documents, **portion), range(128, 130)) == seen[128:]
    resumed = _stream(vocabulary, documents, **portion)
    resumed.remember(None, tmp_path / "positions.json")
    assert _seen(resumed, range(90, 130)) == seen[90:]
    assert _seen(resumed, range(3)) == seen[:3]
    assert _seen(_stream(vocabulary, documents, seed=1, **portion), range(3)) != seen[:3]
    if "batch_tokens" in portion:
        assert max(len(batch) * len(batch[0]) for batch in seen) <= 30


def test_going_on_encodes_only_what_comes(vocabulary, tmp_path, monkeypatch):
    first = _stream(vocabulary, _endless, batch_size=4)
    first.remember(tmp_path / "positions.json")
    _seen(first, range(400))
    windows = first.known[-1].window
    calls = []
    encode = Vocabulary.encode
    monkeypatch.setattr(Vocabulary, "encode", lambda self, texts: calls.append(len(texts)) or encode(self, texts))
    resumed = _stream(vocabulary, _endless, batch_size=4)
    resumed.remember(None, tmp_path / "positions.json")
    _seen(resumed, range(399, 400))
    assert windows >= 2
    assert sum(calls) < 1500  # one window, not all


def test_a_pass_sees_every_document_once(vocabulary):
    stream = _stream(vocabulary, DOCUMENTS, batch_size=4)
    for start in (0, 4):  # 15 documents make 4 batches
        seen = sorted(tuple(row) for batch in _seen(stream, range(start, start + 4)) for row in batch)
        rows = vocabulary.one_each(vocabulary.encode(DOCUMENTS), 8)
        assert sorted(tuple(t for t in row if t != PAD) for row in seen) == sorted(map(tuple, _rows(rows)))


def test_weights_are_shares_of_labels_and_processes_share_an_update(vocabulary):
    stream = _stream(vocabulary, DOCUMENTS, batch_size=5)
    alone = stream.micro_batches(0, accumulation=2)
    assert sum(part.weight for part in alone) == pytest.approx(1)
    both = [part for rank in (0, 1) for part in stream.micro_batches(0, 2, rank, 2)]
    assert sum(part.weight for part in both) == pytest.approx(1)
    assert sum(part.rows for part in both) == 10
    labels = [int((part.batch["labels"] != -100).sum()) for part in both]
    assert [part.weight for part in both] == pytest.approx([count / sum(labels) for count in labels])


def test_a_mixture_takes_turns(vocabulary):
    def examples(seed: int) -> Iterator[tuple[str, str]]:
        return iter([(str(seed % 1000 + 1000), "")] * 50)

    stream = _stream(vocabulary, DOCUMENTS, examples=examples, mixture=0.25, mixture_size=3, batch_size=4)
    kinds = [batch[0][0] >= 1000 for batch in _seen(stream, range(12))]
    assert kinds == [False, False, False, True] * 3
    mixed = [batch for batch in _seen(stream, range(12)) if batch[0][0] >= 1000]
    assert [len(batch) for batch in mixed] == [3, 3, 3]
    assert mixed[0] != mixed[1]
    plain = _stream(vocabulary, DOCUMENTS, batch_size=4)
    assert [batch for batch in _seen(stream, range(12)) if batch[0][0] < 1000] == _seen(plain, range(9))


def test_what_a_stream_refuses(vocabulary, tmp_path):
    with pytest.raises(DeltatuneError, match="can be read but once"):
        _stream(vocabulary, islice(_endless(0), 5))
    with pytest.raises(DeltatuneError, match="hold no words"):
        _stream(vocabulary, [Document(" ")]).micro_batches(0)
    first = _stream(vocabulary, DOCUMENTS)
    first.remember(tmp_path / "positions.json")
    first.micro_batches(0)
    with pytest.raises(DeltatuneError, match="another objective, seed or batch size"):
        _stream(vocabulary, DOCUMENTS, seed=3).remember(None, tmp_path / "positions.json")
