"""Encoded examples kept between runs: found again only for the same data, tokenizer and settings, and rebuilt if damaged."""

from __future__ import annotations

import pytest

from deltatune.core import cache
from deltatune.core.data import Example, TaskConfig, build_task
from deltatune.core.formats import HeadFormat, TextFormat, build_format

TEXTS = ("a great movie", "not good", "the plot is bad and the film is not great")


def task(texts=TEXTS, **config):
    examples = [Example((text,), "yes" if row % 2 else "no", (), f"train-{row}") for row, text in enumerate(texts)]
    return build_task(TaskConfig(name="own", reader="tsv", metric="accuracy", **config), examples, examples[:1], ())


@pytest.fixture
def place(monkeypatch, tmp_path):
    """An empty cache in which every task counts as large."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LEAST", 2)
    return tmp_path / "cache"


@pytest.fixture
def encoded(monkeypatch):
    """How many examples were encoded, call by call."""
    calls = []
    for kind in (HeadFormat, TextFormat):
        own = kind._encode
        monkeypatch.setattr(kind, "_encode", lambda self, rows, own=own: (calls.append(len(rows)), own(self, rows))[1])
    return calls


@pytest.mark.parametrize("name", ["bert-head", "roberta-prompt", "t5-text"])
def test_the_second_time_it_is_read_and_equal(tiny, place, monkeypatch, name):
    about = task(template="*cls**sent_0*_is*mask**sep+*", label_words={"yes": ".", "no": ","})
    form = build_format(tiny(name), about, 16)
    first = form.features(about.train)
    assert len(list(place.iterdir())) == 1
    monkeypatch.setattr(type(form), "_encode", None)
    again = type(form).__new__(type(form))
    again.__dict__.update(vars(form))
    assert again.features(about.train) == first == form.features(list(about.train))


def test_any_change_makes_it_anew(tiny, place, encoded):
    form = build_format(tiny("bert-head"), task(), 16)
    form.features(task().train)
    others = [task((*TEXTS[:2], "the plot is bad")), task(TEXTS[:2]), task(labels=("yes", "no")), task(TEXTS[::-1])]
    for other in others:
        build_format(tiny("bert-head"), other, 16).features(other.train)
    build_format(tiny("bert-head"), task(), 5).features(task().train)
    build_format(tiny("roberta-head"), task(), 16).features(task().train)
    lower = tiny("bert-head")
    lower.tokenizer.add_tokens(["great movie"])
    build_format(lower, task(), 16).features(task().train)
    build_format(tiny("t5-text"), task(), 16).features(task().train)
    assert len(encoded) == len(list(place.iterdir())) == 9
    # Neither the padding nor the truncation of an earlier call is a setting, nor is how an example is called.
    form.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=3)
    renamed = [Example(example.texts, example.label, (), "x") for example in task().train]
    form.features(renamed)
    assert len(encoded) == 9


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b.replace(b"1", b"2"), lambda b: b"\xff"]
)
def test_a_damaged_entry_is_rebuilt(tiny, place, encoded, damage):
    form = build_format(tiny("bert-head"), task(), 16)
    first = form.features(task().train)
    (entry,) = place.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert form.features(task().train) == first
    assert entry.read_bytes() == whole
    assert encoded == [3, 3]


def test_small_tasks_are_not_kept_nor_is_anything_when_it_is_off(tiny, place, encoded, monkeypatch):
    form = build_format(tiny("bert-head"), task(), 16)
    form.features(task().train[:1])
    monkeypatch.setenv(cache.VARIABLE, "off")
    form.features(task().train)
    form.features(task().train)
    assert encoded == [1, 3, 3]
    assert not place.exists()


def test_a_cache_that_cannot_be_written_or_has_no_digest_is_done_without(tiny, place, encoded, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "below"))
    form = build_format(tiny("bert-head"), task(), 16)
    first = form.features(task().train)
    monkeypatch.setenv(cache.VARIABLE, str(place))
    form.unknown = object()
    assert form.features(task().train) == first
    assert not place.exists()
    assert encoded == [3, 3]


def test_the_user_s_cache_is_the_default_place(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "deltatune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "deltatune"
