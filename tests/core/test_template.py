"""The template language against the vectors of the published program, then by its own rules."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deltatune.core.errors import DeltatuneError
from deltatune.core.template import (
    Encoding,
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

GOLDEN = Path(__file__).parents[1] / "golden" / "combos"
CLS, SEP, MASK = 0, 2, 4


@pytest.fixture(scope="module")
def roberta():
    return AutoTokenizer.from_pretrained(GOLDEN / "tokenizer")


@pytest.fixture(scope="module")
def bert():
    return AutoTokenizer.from_pretrained(GOLDEN / "bert_tokenizer")


def encode(case, tokenizer):
    lengths = Lengths(
        case["max_length"],
        case.get("first_sent_limit"),
        case.get("other_sent_limit"),
        case.get("truncate_head", False),
    )
    if case["template"] is None:
        return plain_encode(case["texts"], tokenizer, lengths)
    words = case.get("label_words")
    return Template.parse(case["template"]).encode(
        case["texts"],
        tokenizer,
        lengths,
        prompt_length=case.get("prompt_num", 10),
        label_word_ids=words and label_word_ids(dict(enumerate(words)), range(len(words)), tokenizer),
        support_labels=case.get("support_labels"),
    )


def padded(encoding: Encoding, length: int, pad: int):
    missing = length - len(encoding.input_ids)
    return {
        "input_ids": encoding.input_ids + [pad] * missing,
        "attention_mask": [1] * len(encoding.input_ids) + [0] * missing,
        **({} if encoding.mask_position is None else {"mask_pos": [encoding.mask_position]}),
    }


# Vectors that record a defect of the published program; each has its own test below.
DEFECTS = {
    "literal double underscore and trailing underscore",
    "lone underscore literal",
    "single non-ascii literal",
    "unicode and special-token text",
    "mask outside, long tail (soft prompt damaged)",
    "mask outside, tail longer than the limit (wrong length)",
    "template without mask",
    "missing sentence index",
    "literal starting with sent",
}
BERT_DEFECTS = {
    "literal double underscore and trailing underscore",
    "lone underscore literal",
}


def test_encodings_equal_the_reference(golden, roberta):
    cases = [case for case in golden("combos", "templates.json")["cases"] if case["name"] not in DEFECTS]
    assert len(cases) == 47 - len(DEFECTS)
    for case in cases:
        assert padded(encode(case, roberta), case["max_length"], roberta.pad_token_id) == case["expected"], case["name"]


def test_bert_encodings_equal_the_reference(golden, bert):
    cases = [case for case in golden("combos", "templates.json")["bert_cases"] if case["name"] not in BERT_DEFECTS]
    assert len(cases) == 16 - len(BERT_DEFECTS)
    for case in cases:
        assert padded(encode(case, bert), case["max_length"], bert.pad_token_id) == case["expected"], case["name"]


def texts_of(processors, task, split):
    (found,) = [entry for entry in processors["processors"] if entry["task"] == task]
    return [
        ([text or "" for text in (first, second)][: 2 if second is not None else 1], label)
        for _, first, second, label in found["examples"][split]
    ]


def test_datasets_equal_the_reference(golden, roberta):
    processors = golden("combos", "processors.json")
    for dataset in golden("combos", "datasets.json")["datasets"]:
        # The published program lists no classes for the regression task; its words are those of the low and high end.
        labels = ["0", "1"] if dataset["task"] == "sts-b" else dataset["label_list"]
        ids = label_word_ids(ast.literal_eval(dataset["mapping"]), labels, roberta)
        assert ids == dataset["label_word_ids"]
        template = Template.parse(dataset["template"])
        examples = texts_of(processors, dataset["task"], dataset["mode"])
        assert len(examples) == len(dataset["features"])
        for (texts, label), feature in zip(examples, dataset["features"], strict=True):
            encoding = template.encode(texts, roberta, Lengths(dataset["max_length"]), prompt_length=dataset["prompt_num"])
            assert encoding.input_ids == feature["input_ids"]
            assert [encoding.mask_position] == feature["mask_pos"]
            number = float(label) if dataset["task"] == "sts-b" else [str(known) for known in labels].index(str(label))
            assert number == feature["label"]


def test_label_words_equal_the_reference(golden, roberta):
    labels = {entry["task"]: entry["label_list"] for entry in golden("combos", "datasets.json")["datasets"]}
    for case in golden.case("combos", "datasets.json", "label_words"):
        words = ast.literal_eval(case["mapping"])
        order = ["0", "1"] if case["task"] == "sts-b" else labels[case["task"]]
        if "error" in case:
            with pytest.raises(DeltatuneError):
                label_word_ids(words, order, roberta)
        else:
            assert label_word_ids(words, order, roberta) == case["ids"]


@pytest.fixture(scope="module")
def cases(golden):
    return {case["name"]: case for case in golden("combos", "templates.json")["cases"]}


def test_a_literal_of_one_character_is_encoded_as_text(cases, roberta, bert):
    # Defect D11: the published program looks one character up among the vocabulary's byte symbols.
    def ids(name, tokenizer=roberta):
        return encode(cases[name], tokenizer).input_ids

    head = [CLS, 52, 362, 521, 527, 447, 262]
    assert ids("lone underscore literal") == [*head, 225, MASK, 18, SEP]
    assert ids("literal double underscore and trailing underscore") == [*head, 225, 291, 275, 225, MASK, 225, SEP]
    assert ids("single non-ascii literal") == [*head, 163, 227, 247, MASK, 18, SEP]
    assert ids("lone underscore literal", bert) == [2, 113, 116, 91, 147, 6, 4, 6, 3]  # word pieces know no space
    assert ids("literal double underscore and trailing underscore", bert) == [2, 113, 116, 91, 147, 6, 90, 139, 4, 3]


def test_a_literal_may_begin_like_a_sentence(cases, roberta):
    # Defect D11: the published program crashes on a literal that begins with "sent".
    encoding = encode(cases["literal starting with sent"], roberta)
    word = roberta("sentence", add_special_tokens=False)["input_ids"]
    assert encoding.input_ids[-len(word) - 2 :] == [SEP, *word, SEP]


def test_text_never_becomes_a_special_token(cases, roberta, bert):
    # Defect D12: the published program finds its mask in the user's text.
    case = cases["unicode and special-token text"]
    encoding = encode(case, roberta)
    spelt = [225, 32, 81, 269, 79, 34]
    assert encoding.input_ids == [*case["expected"]["input_ids"][:26], *spelt, 225, 92, 262, 291, 275, MASK, 18, SEP]
    assert encoding.mask_position == len(encoding.input_ids) - 3
    for tokenizer in (roberta, bert):
        specials = " ".join(tokenizer.all_special_tokens)
        text = f"the {specials} film{specials}"
        encoding = Template.parse("*cls**sent_0*_<mask>_[MASK]*mask*</s>*sep+*").encode([text], tokenizer, Lengths(999))
        ids = encoding.input_ids
        assert [ids[0], ids[encoding.mask_position], ids[-1]] == [
            tokenizer.cls_token_id,
            tokenizer.mask_token_id,
            tokenizer.sep_token_id,
        ]
        plain = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        assert sum(token in plain for token in ids) == 3


def test_a_vocabulary_of_whole_words_keeps_special_words_out():
    # Here even the plain word "[MASK]" is the mask's entry; it becomes the unknown word.
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "."))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
    )
    encoding = Template.parse("*cls**sent_0**mask*.*sep*").encode(["[MASK] fine [SEP]"], tokenizer, Lengths(9))
    assert encoding.input_ids == [2, 1, 5, 1, 4, 6, 3]


def test_truncation_keeps_the_soft_prompt(cases, roberta):
    # Defect D10: the published program deletes the soft prompt together with the first text, or fails.
    case = cases["mask outside, long tail (soft prompt damaged)"]
    damaged, prompt = case["expected"]["input_ids"], [-1, -2, -3, -4, -5]
    assert encode(case, roberta).input_ids == [CLS, *prompt, *damaged[1:35]]
    case = cases["mask outside, tail longer than the limit (wrong length)"]
    encoding = encode(case, roberta)
    assert encoding.input_ids == [CLS, *prompt, *damaged[1:19]]
    assert encoding.mask_position == 7


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
