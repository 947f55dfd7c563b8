"""Rows and hidden tokens."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from deltatune.core.corpus import Document
from deltatune.core.errors import DeltatuneError
from deltatune.core.pretraining import MaskedLM, PretrainConfig, SpanCorruption
from deltatune.core.pretraining.masking import choose_hidden, corrupt, mask_tokens
from deltatune.core.pretraining.rows import Padded, Rows, Vocabulary

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


@pytest.fixture(scope="module")
def letters() -> Vocabulary:
    """One token for each letter: words of several tokens."""
    ids = {word: i for i, word in enumerate([*SPECIAL, *"abcdefgh"])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Sequence, Split

    tokenizer.pre_tokenizer = Sequence([Split(Regex(r"\s"), "removed"), Split(Regex("."), "isolated")])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return Vocabulary(transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named), BEGIN, END, PAD, len(ids))


def _text(*numbers: int) -> Document:
    return Document(" ".join(f"w{number}" for number in numbers))


def _rows(rows: Rows) -> list[list[int]]:
    return [rows.ids[a : a + n].tolist() for a, n in zip(rows.starts, rows.lengths, strict=True)]


def _padded(ids: list[list[int]], chance: float = -1.0) -> Padded:
    array = np.array(ids)
    chances = np.where(array < A, 0.0, chance).astype(np.float32)
    return Padded(array, chances, np.tile(np.arange(array.shape[1]), (len(ids), 1)), (array != PAD).sum(axis=1))


def test_packing_by_hand(vocabulary):
    encoded = vocabulary.encode([_text(0, 1, 2), _text(), _text(3), _text(4, 5, 6, 7)])
    # Text tokens per row: 6 - 2 = 4; documents are w0 w1 w2 | w3 | w4 w5 w6 w7 with the end token between two.
    assert _rows(vocabulary.packed(encoded, 6)) == [
        [BEGIN, A, A + 1, A + 2, END, END],
        [BEGIN, A + 3, END, A + 4, A + 5, END],
        [BEGIN, A + 6, A + 7, END],
    ]
    assert _rows(vocabulary.one_each(encoded, 5)) == [
        [BEGIN, A, A + 1, A + 2, END],
        [BEGIN, A + 3, END],
        [BEGIN, A + 4, A + 5, A + 6, END],
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=9), min_size=1, max_size=8), st.integers(4, 12))
def test_packing_keeps_every_token_in_order(vocabulary, documents, length):
    packed = vocabulary.packed(vocabulary.encode([_text(*numbers) for numbers in documents]), length)
    rows = _rows(packed)
    assert all(len(row) == length for row in rows[:-1])
    assert len(rows[-1]) <= length
    assert all((row[0], row[-1]) == (BEGIN, END) for row in rows)
    kept = [token for row in rows for token in row[1:-1]]
    assert kept == [token for numbers in documents for token in (*(A + n for n in numbers), END)][:-1]
    assert (packed.chance[packed.ids < A] == 0).all()


def test_a_special_token_in_a_text_is_never_asked(vocabulary):
    encoded = vocabulary.encode([Document("w0 <mask> nowhere")])
    assert encoded.ids.tolist() == [A, MASK, UNKNOWN]
    assert encoded.chance.tolist() == [-1.0, 0.0, -1.0]


def test_words_of_several_tokens_share_a_weight_and_a_fate(letters):
    encoded = letters.encode([Document("ab  c def", (0.5, 0.0, 0.25))])
    assert encoded.chance.tolist() == [0.5, 0.5, 0.0, 0.25, 0.25, 0.25]
    assert encoded.word.tolist() == [0, 1, 0, 0, 1, 2]
    rows = letters.one_each(encoded, 6).padded(np.array([0]), PAD)
    assert rows.first.tolist() == [[0, 1, 1, 3, 4, 5]]
    packed = letters.packed(encoded, 7).padded(np.array([1]), PAD)
    assert packed.ids.tolist() == [[BEGIN, *range(A + 5, A + 6), END]]
    assert packed.first.tolist() == [[0, 1, 2]]  # "f" was cut off from "de" and stands for itself
    rows = letters.one_each(letters.encode([Document("abc de", (0.5, 0.5))] * 400), 9).padded(np.arange(400), PAD)
    _, hidden = mask_tokens(rows, MaskedLM(), MASK, letters.ordinary, np.random.default_rng(0))
    assert (hidden[:, 1] == hidden[:, 2]).all()
    assert (hidden[:, 1] == hidden[:, 3]).all()
    assert 160 < hidden[:, 1].sum() < 240
    assert (hidden[:, 1] != hidden[:, 4]).any()


def test_weights_that_do_not_fit_the_words_are_refused(vocabulary, letters):
    for used in (vocabulary, letters):
        with pytest.raises(DeltatuneError, match="2 words and 1 weights"):
            used.encode([Document("a b", (0.5,))])


def test_shares_of_masking(vocabulary):
    rows = _padded([[BEGIN, *range(A, A + 20), END, PAD]] * 2000)
    shown, hidden = mask_tokens(rows, MaskedLM(), MASK, vocabulary.ordinary, np.random.default_rng(1))
    assert not hidden[rows.ids < A].any()
    assert (shown[~hidden] == rows.ids[~hidden]).all()
    assert hidden.sum() / 40_000 == pytest.approx(0.15, abs=0.006)  # 3.4 standard errors
    fate = shown[hidden]
    assert (fate == MASK).mean() == pytest.approx(0.8, abs=0.02)
    # A random token is the same one in a twentieth of the cases.
    assert (fate == rows.ids[hidden]).mean() == pytest.approx(0.1 + 0.1 / 20, abs=0.015)
    assert set(fate[fate != MASK]) == set(range(A, A + 20))


def test_masking_with_a_known_generator(vocabulary):
    rows = _padded([[BEGIN, A, A + 1, A + 2, A + 3, END]])
    drawn = np.random.default_rng(5)
    words = drawn.random((1, 6), dtype=np.float32)
    expected = [column for column in (1, 2, 3, 4) if words[0, column] < 0.6]
    fates = drawn.random(len(expected), dtype=np.float32)
    shown, hidden = mask_tokens(rows, MaskedLM(share=0.6, random=0.0), MASK, vocabulary.ordinary, np.random.default_rng(5))
    assert np.flatnonzero(hidden[0]).tolist() == expected
    assert [int(shown[0, c]) for c in expected] == [MASK if f < 0.8 else A + c - 1 for c, f in zip(expected, fates, strict=True)]


def test_one_token_is_hidden_where_chance_would_hide_none(vocabulary):
    rows = _padded([[BEGIN, A, A + 1, END]])
    for seed in range(20):
        _, hidden = mask_tokens(rows, MaskedLM(share=1e-6), MASK, vocabulary.ordinary, np.random.default_rng(seed))
        assert hidden.sum() == 1
        assert not hidden[0, [0, 3]].any()
    _, hidden = mask_tokens(_padded([[BEGIN, END]]), MaskedLM(), MASK, vocabulary.ordinary, np.random.default_rng(0))
    assert not hidden.any()


@pytest.mark.parametrize(
    ("hidden", "asked", "answer"),
    [
        ([2], [10, 11, S0, 13, 14, END], [S0, 12, END]),
        ([1, 2, 4], [10, S0, 13, S1, END], [S0, 11, 12, S1, 14, END]),
        ([0, 4], [S0, 11, 12, 13, S1, END], [S0, 10, S1, 14, END]),
        ([], [10, 11, 12, 13, 14, END], [END]),
        ([0, 1, 2, 3, 4], [S0, END], [S0, 10, 11, 12, 13, 14, END]),
    ],
)
def test_spans_by_hand(hidden, asked, answer):
    ids = np.array([10, 11, 12, 13, 14, END])
    flags = np.isin(np.arange(6), hidden)
    found = corrupt(ids, flags, np.array([S0, S1, S2]), END)
    assert [part.tolist() for part in found] == [asked, answer]


def test_a_span_without_a_sentinel_stays():
    found = corrupt(np.arange(10, 16), np.array([True, False, True, False, True, True]), np.array([S0, S1]), END)
    assert [part.tolist() for part in found] == [[S0, 11, S1, 13, 14, 15], [S0, 10, S1, 12, END]]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10**6), st.floats(0.05, 0.6), st.floats(1.0, 5.0))
def test_random_spans_have_their_share_and_lose_nothing(length, seed, density, mean):
    config = SpanCorruption(density=density, mean_length=mean)
    rows = _padded([[A + i % 20 for i in range(length)]])
    hidden = choose_hidden(rows, 0, config, np.random.default_rng(seed))
    count = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(count / mean), 1), count, length - count)
    assert hidden.sum() == count
    assert (np.diff(hidden.astype(int), prepend=0) == 1).sum() == spans
    sentinels = np.arange(1000, 1100)
    asked, answer = corrupt(rows.ids[0], hidden, sentinels, END)
    pieces: dict[int, list[int]] = {}
    for token in answer[:-1].tolist():
        pieces[token] = [] if token >= 1000 else pieces.get(token, [])
        if token < 1000:
            pieces[max(key for key in pieces if key >= 1000)].append(token)
    whole = [word for token in asked.tolist() for word in (pieces[token] if token >= 1000 else [token])]
    assert whole == rows.ids[0].tolist()


def test_salient_words_are_hidden_by_number(vocabulary):
    weights = (0.3, 0.08, 0.3, 0.3, 0.0, 0.08, 0.3)
    rows = vocabulary.one_each(vocabulary.encode([Document("w0 w1 w2 w3 w4 w5 w6", weights)]), 12).padded(np.array([0]), PAD)
    counts, others = [], []
    for seed in range(600):
        hidden = choose_hidden(rows, 0, SpanCorruption(words=(1, 1, 2, 3, 4, 5)), np.random.default_rng(seed))
        assert not hidden[[0, 5, 8]].any()  # special tokens, and the word of weight 0
        counts.append(int(hidden[[1, 3, 4, 7]].sum()))
        others.append(int(hidden[[2, 6]].sum()))
    assert {count: counts.count(count) / 600 for count in (1, 2, 3)} == pytest.approx({1: 1 / 3, 2: 1 / 6, 3: 1 / 6}, abs=0.06)
    assert counts.count(4) / 600 == pytest.approx(1 / 3, abs=0.06)  # of 5 there are but 4
    assert (max(others), np.mean(others)) == (1, pytest.approx(0.3, abs=0.06))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedLM(share=0.0), "share must be above 0"),
        (lambda: MaskedLM(mask=0.9, random=0.2), "add up to more than 1"),
        (lambda: MaskedLM(max_length=3), "max_length must be at least 4, got 3"),
        (lambda: MaskedLM(shift=-1), "shift must be at least 0"),
        (lambda: SpanCorruption(density=1.5), "density must be from 0 to 1, got 1.5"),
        (lambda: SpanCorruption(mean_length=0.5), "mean_length must be at least 1"),
        (lambda: SpanCorruption(words=()), "words must name numbers from 1"),
        (lambda: PretrainConfig(MaskedLM(), mixture=0.5), "has no decoder"),
        (lambda: PretrainConfig(MaskedLM(), steps=0), "steps must be at least 1, got 0"),
        (lambda: PretrainConfig(MaskedLM(), batch_tokens=0), "batch_tokens must be at least 1"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(DeltatuneError, match=message):
        make()
