"""The searches for label words and templates against the reference vectors of the paper."""

from __future__ import annotations

import json

import pytest
import torch

from deltatune.combos.search_labels import best_pairings, class_of, likely_words, nearest_words
from deltatune.combos.search_templates import BLANKS, FORBIDDEN, Vocabulary, asked, fill, is_usable, template_text
from deltatune.combos.sentences import joined
from deltatune.combos.vote import first_of_each, mapping_line, ranked
from deltatune.core.data import Example, builtin_task
from deltatune.core.errors import DeltatuneError

S = ("combos", "search.json")


@pytest.mark.golden(*S)
@pytest.mark.parametrize("number", range(5))
def test_label_words(golden, number):
    table = golden.case(*S, "label_search")
    case, vocabulary = table["cases"][number], table["vocab"]
    scores = torch.tensor(case["logits"])
    labels = torch.tensor(case["labels"])
    classes = class_of(labels) if case["regression"] else labels
    begins = torch.tensor([word.startswith("Ġ") for word in vocabulary])
    count = len(case["likely"])
    # Where the vector names seed words, `likely` is what the program kept before it looked at them, in any word.
    likely = likely_words(scores, classes, begins, count, case["k_likely"])
    assert likely == [[word for word in words if begins[word]] for words in case["likely"]]
    if case["seed_labels"]:
        seeds = [vocabulary.index(word) for word in case["seed_labels"]]
        likely = nearest_words(likely, seeds, torch.tensor(table["embedding"]), case["k_neighbors"])
    number = None if case["top_n"] == -1 else case["top_n"]
    found = best_pairings(scores, labels, likely, number)
    expected = case["scores"]
    assert [pairing.score for pairing in found][: len(expected)] == pytest.approx(expected, rel=1e-5)
    known = {pairing.words: pairing.score for pairing in best_pairings(scores, labels, likely)}
    for words, score in zip(case["pairings"], expected, strict=True):
        assert known[tuple(words)] == pytest.approx(score, rel=1e-5)
    if number is None:  # the program lost the last pairing (D38)
        assert len(found) == len(expected) + 1


def test_too_many_tuples_are_refused():
    with pytest.raises(DeltatuneError, match=r"1,771,561 combinations .* lower --k_likely"):
        best_pairings(torch.zeros(2, 3), torch.tensor([0, 1]), [list(range(11))] * 6)


class Words:
    """Words as the vectors look them up: with the space marker in front, else unknown."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.ids = {token: number for number, token in enumerate(tokens)}

    def __call__(self, text):
        return [self.ids.get(f"▁{word}", self.ids["<unk>"]) for word in text.split()]

    @property
    def vocabulary(self):
        return Vocabulary(self, self.ids["<extra_id_0>"], self.ids["</s>"], self.ids["."])


def kind_of(template):
    return "pair" if "sentl_1" in template else "front" if template.startswith("*cls*.*") else "end"


@pytest.mark.golden(*S)
def test_examples_as_the_search_shows_them(golden):
    table = golden.case(*S, "template_search")
    words = Words(table["id_to_token"])
    for case in table["get_text"]:
        word = case["mapping"][case["label"]]
        assert asked(kind_of(case["template"]), case["text"], word, words.vocabulary) == case["ids"]
    long = ["the film " * 200]
    shown = asked("end", long, "great", words.vocabulary)
    assert len(shown) == 256
    assert shown[-1] == words.vocabulary.end
    assert asked("front", long, "great", words.vocabulary)[0] == words.vocabulary.stop


@pytest.mark.golden(*S)
@pytest.mark.parametrize("number", range(3))
def test_templates(golden, number):
    table = golden.case(*S, "template_search")
    case, words = table["searches"][number], Words(table["id_to_token"])
    example, previous, position = (torch.tensor(case[name], dtype=torch.float64) for name in "EFG")

    def logits(ids):
        return example + previous[ids[-1]] + position[len(ids) - 1]

    found = fill(logits, words.vocabulary, case["beam"])
    texts = [[words.tokens[token] for token in item.tokens] for item in found]
    assert ["".join(text) for text in texts] == case["raw"]
    assert [template_text(case["kind"], text) for text in texts] == case["templates"]
    assert not any(token in FORBIDDEN for item in found for token in item.tokens)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_unusable_templates_are_dropped_d39():
    assert is_usable("*cls**sent_0*_It_was*mask*.*sep+*")
    for text in (
        "*cls**sent_0*!*mask**mask**sep+*",
        "*cls**sent_0*_so*sep+*",
        f"*cls**sent_0*{BLANKS[0]}*mask**sep+*",
        "*mask*<unk>",
    ):
        assert not is_usable(text)


@pytest.mark.golden(*S)
def test_sentences_for_the_encoder(golden):
    for case in golden.case(*S, "embedding_sentences"):
        row = case["row"]
        if isinstance(row, str):
            name = case["task"].lower()
            columns = builtin_task(name if name == "snli" else f"glue/{name}").text_positions
            cells = row.rstrip("\n").split("\t")
            # MRPC is told from the right in this tool (D40): the same two columns.
            texts = tuple(cells[place] for place in columns)
        else:
            texts = (row[1] or "",)
        assert joined(Example(texts, None)) == case["sentence"]


@pytest.mark.golden(*S)
def test_candidates_are_ranked(golden):
    case = golden.case(*S, "sorting")
    scores = first_of_each([(entry["mapping_id"], entry["sst-2_dev_eval_acc"]) for entry in case["log"]])
    order = ranked(scores)
    lines = [mapping_line(json.loads(case["candidates"][number])) for number, _ in order]
    assert "".join(f"{line}\n" for line in lines) == case["sort.txt"]
    assert "".join(f"{score:.5f} {line}\n" for (_, score), line in zip(order, lines, strict=True)) == case["score.txt"]
