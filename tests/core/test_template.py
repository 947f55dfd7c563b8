"""How templates are parsed, cut to length and refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from deltatune.core.errors import DeltatuneError
from deltatune.core.template import (
    Label,
    Lengths,
    Literal,
    Prompt,
    Sentence,
    Special,
    Template,
    label_word_ids,
    plain_encode,
)

CLS, SEP, MASK = 0, 2, 4


def test_truncation_shortens_in_order(roberta):
    text = "the film is great"  # 424 497 271 368

    def ids(template, length, texts=(text,), **more):
        lengths = Lengths(length, truncate_head=more.pop("truncate_head", False))
        return Template.parse(template).encode(texts, roberta, lengths, prompt_length=2).input_ids

    # The end goes while the mask is inside; else the text before it, then what follows, at last the token right before it.
    assert ids("*cls**prompt**sent_0**mask*.*sep+*", 8) == [CLS, -1, -2, 424, 497, 271, 368, MASK]
    assert ids("*cls**prompt**sent_0**mask*.*sep+*", 7) == [CLS, -1, -2, 368, MASK, 18, SEP]
    assert ids("*cls**prompt**sent_0**mask*.*sep+*", 5) == [CLS, -1, -2, 368, MASK]
    assert ids("*cls**prompt**sent_0**mask*.*sep+*", 4) == [CLS, -1, -2, MASK]
    # A soft prompt at the end is stepped over.
    assert ids("*cls**mask**sent_0**sep**prompt*", 6) == [CLS, MASK, 424, 497, -1, -2]
    assert ids("*cls**sent_0**mask**prompt*", 7) == [CLS, 424, 497, 368, MASK, -1, -2]
    # From the front, the mask and the soft prompt are stepped over, but not cls.
    assert ids("*cls**prompt**mask**sent_0**sep*", 5, truncate_head=True) == [-1, -2, MASK, 368, SEP]
    with pytest.raises(DeltatuneError, match=r"max_length 3 is too small for .*: give it at least 4$"):
        ids("*cls**prompt**sent_0**mask*.*sep+*", 3)


def test_segments(roberta, bert):
    # Defect D9: the published program never returns them.
    template = Template.parse("*cls**sent_0**sep+**sent_1**sep+**mask**sep+*")
    texts = ["the film", "the story"]
    assert template.encode(texts, bert, Lengths(20)).token_type_ids == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert template.encode(texts, roberta, Lengths(20)).token_type_ids == [0] * 9
    assert plain_encode(texts, bert, Lengths(20)).token_type_ids == [0, 0, 0, 0, 1, 1, 1]
    # Cut tokens take their segment with them: of "cls the film sep the story sep [MASK] sep" the first text is left out.
    assert template.encode(texts, bert, Lengths(6)).token_type_ids == [0, 0, 0, 1, 1, 1]
    assert Template.parse("*cls**sent_0**sep**mask**sep*").encode(texts, bert, Lengths(20)).token_type_ids == [0] * 6


def test_parse_gives_typed_pieces():
    template = Template.parse("*cls*prompt*+sentl-_12*_It_was*mask*.*labelx_3**label_0**sep**sep+*")
    assert [piece for piece in template.pieces if piece != Literal("")] == [
        Special("cls"),
        Prompt(),
        Sentence(12, leading_space=True, drop_last=True, case="l"),
        Literal("_It_was"),
        Special("mask"),
        Literal("."),
        Label(3, of_demonstration=True),
        Label(0),
        Special("sep"),
        Special("sep+"),
    ]


@pytest.mark.parametrize(
    ("piece", "meant"),
    [
        ("maks", "mask"),
        ("Mask", "mask"),
        (" mask ", "mask"),
        ("mask_0", "mask"),
        ("promt", "prompt"),
        ("sep-", "sep"),
        ("sent_x", "sent_0"),
        ("sent_", "sent_0"),
        ("sent_07", "sent_0"),
        ("sent", "sent_0"),
        ("snet_1", "sent_0"),
        ("+sentL-_0", "sentl_0"),
        ("labels_0", "label_0"),
        ("LABELX_1", "labelx_0"),
    ],
)
def test_a_misspelt_token_is_refused(piece, meant):
    with pytest.raises(DeltatuneError) as error:
        Template.parse(f"*cls**{piece}*_It_was*mask*")
    text = f"*cls**{piece}*_It_was*mask*"
    assert str(error.value) == (
        f"template character 7: unknown piece '*{piece}*' in {text!r}; write '*{meant}*', or begin it with '_' if it is text"
    )


@pytest.mark.parametrize("piece", ["sentence", "sent_to_him", "_mask", "_sent_0", "masked!", "It was", "?", "a", ":", "—"])
def test_other_text_is_literal(piece):
    assert Literal(piece) in Template.parse(f"*cls*{piece}*mask*").pieces


def test_a_template_has_one_mask():
    # Defect D8: the published program finds out while it encodes the first example.
    with pytest.raises(DeltatuneError, match=r"^template character 12: '\*cls\*sent_0\*' ends without '\*mask\*'; add one$"):
        Template.parse("*cls*sent_0*")
    with pytest.raises(DeltatuneError, match=r"^template character 1: '' ends without"):
        Template.parse("")
    with pytest.raises(
        DeltatuneError, match=r"^template character 12: a second '\*mask\*' in '\*cls\*mask\*\*mask\*'; keep one$"
    ):
        Template.parse("*cls*mask**mask*", mask_required=False)
    assert str(Template.parse("*cls*sent_0*", mask_required=False)) == "*cls*sent_0*"


def test_encode_names_what_is_missing(roberta):
    def fails(template, message, **more):
        with pytest.raises(DeltatuneError, match=message):
            Template.parse(template).encode(["a"], roberta, Lengths(20), **more)

    fails("*mask**sent-_1*", r"^template piece '\*sent-_1\*': no text 1 among the 1 given \(from 0\)$")
    fails("*mask**label_0*", r"'\*label_0\*': no label word 0 among the 0 given")
    fails("*mask**label_2*", r"'\*label_2\*': no label word 2 among the 2 given", label_word_ids=[7, 8])
    fails("*mask**labelx_0*", r"'\*labelx_0\*': no demonstration label 0 among the 0 given", label_word_ids=[7, 8])
    fails("*mask**labelx_0*", r"no label word 5 among the 2 given", label_word_ids=[7, 8], support_labels=[5])


def test_a_tokenizer_without_mask_is_named():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"u": 0}, unk_token="u")), unk_token="u")
    with pytest.raises(DeltatuneError, match=r"the tokenizer has no token for '\*mask\*'"):
        Template.parse("*cls**mask*").encode([], tokenizer, Lengths(4))
    assert Template.parse("*cls*_u", mask_required=False).encode([], tokenizer, Lengths(4)).input_ids == [0]


@pytest.mark.parametrize(("field", "value"), [("max_length", 0), ("first_sentence_limit", -1), ("other_sentence_limit", -1)])
def test_lengths_are_checked(field, value):
    with pytest.raises(DeltatuneError, match=rf"^{field} must be at least \d, got {value}$"):
        Lengths(**{"max_length": 8, field: value})


def test_label_words_name_the_way_out(roberta, bert):
    with pytest.raises(DeltatuneError, match=r"label word 'zebra' of label 'no' is not one token but 6: Ġ z e b r a; choose"):
        label_word_ids({"no": "zebra"}, ["no"], roberta)
    with pytest.raises(DeltatuneError, match=r"label word 'zebra' of label 'no' is unknown; choose"):
        label_word_ids({"no": "zebra"}, ["no"], bert)
    with pytest.raises(DeltatuneError, match=r"label word '\[ASK\]' of label 'no' is unknown; choose"):
        label_word_ids({"no": "[ASK]"}, ["no"], bert)
    with pytest.raises(DeltatuneError, match=r"label word '' of label 'no' is "):
        label_word_ids({"no": ""}, ["no"], bert)
    with pytest.raises(DeltatuneError, match=r"no label word for label 'yes', only for 'no'; add it"):
        label_word_ids({"no": "bad"}, ["no", "yes"], roberta)


PIECES = st.one_of(
    st.sampled_from([Prompt(), *map(Special, ("cls", "sep", "sep+"))]),
    st.builds(Sentence, st.integers(0, 1), st.booleans(), st.booleans(), st.sampled_from(["", "l", "u"])),
    st.builds(Label, st.integers(0, 1), st.booleans()),
    st.builds(Literal, st.sampled_from(["", "_It_was", ".", "?", "_", "sentence", "—"])),
)


@given(st.lists(PIECES, max_size=8), st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_spelling_and_parsing_are_inverse(pieces, place):
    template = Template((*pieces[:place], Special("mask"), *pieces[place:]))
    assert Template.parse(str(template)) == template


@given(st.text(alphabet="*_aceklmnoprst+-01 ", max_size=30))
@settings(max_examples=30, deadline=None)
def test_whatever_parses_is_spelt_the_same(text):
    try:
        spelt = str(Template.parse(text, mask_required=False))
    except DeltatuneError as error:
        spelt = str(error)
    assert spelt == text or re.fullmatch(r"template character \d+: .*", spelt)


@given(
    pieces=st.lists(PIECES, max_size=8),
    place=st.integers(0, 8),
    texts=st.tuples(st.text(max_size=30), st.sampled_from(["", "the film <mask> was great </s> .", "<s>"])),
    lengths=st.builds(
        Lengths,
        st.integers(1, 40),
        st.none() | st.integers(0, 9),
        st.none() | st.integers(0, 9),
        truncate_head=st.booleans(),
    ),
    prompt_length=st.integers(0, 3),
)
@settings(max_examples=30, deadline=None)
def test_what_must_stay_stays(roberta, pieces, place, texts, lengths, prompt_length):
    template = Template((*pieces[:place], Special("mask"), *pieces[place:]))
    more = {"prompt_length": prompt_length, "label_word_ids": [375, 368], "support_labels": [1, 0]}
    prompt = [-(row + 1) for row in range(prompt_length)] * template.pieces.count(Prompt())
    heads = 0 if lengths.truncate_head else template.pieces.count(Special("cls"))
    if lengths.max_length < len(prompt) + heads + 1:
        with pytest.raises(DeltatuneError, match=f"at least {len(prompt) + heads + 1}$"):
            template.encode(texts, roberta, lengths, **more)
        return
    encoding = template.encode(texts, roberta, lengths, **more)
    whole = template.encode(texts, roberta, replace(lengths, max_length=10_000), **more)
    assert len(encoding.input_ids) == len(encoding.token_type_ids) == min(lengths.max_length, len(whole.input_ids))
    assert [token for token in encoding.input_ids if token < 0] == prompt
    assert [index for index, token in enumerate(encoding.input_ids) if token == MASK] == [encoding.mask_position]
    assert encoding.input_ids.count(CLS) >= heads
    remaining = iter(whole.input_ids)
    assert all(token in remaining for token in encoding.input_ids)  # in order, nothing made up
