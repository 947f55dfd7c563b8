"""Filled templates equal the reference vectors, and text never becomes a token of its own."""

from __future__ import annotations

import ast

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deltatune.core.errors import DeltatuneError
from deltatune.core.template import (
    Encoding,
    Lengths,
    Template,
    label_word_ids,
    plain_encode,
)

CLS, SEP, MASK = 0, 2, 4


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
