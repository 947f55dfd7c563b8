"""Templates with demonstrations and their tokens: the reference vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from deltatune.combos.demonstrations import (
    average,
    candidates_for,
    draw,
    draw_any,
    halves,
    in_context,
    ordered,
    similar,
    template_of,
    with_demonstrations,
)
from deltatune.core.data import builtin_task, load_task
from deltatune.core.template import Lengths, Template, label_word_ids

GOLDEN = Path(__file__).parents[1] / "golden" / "combos"
D = ("combos", "demonstrations.json")


def same_template(found, text):
    assert str(found) == text
    assert Template.parse(text) == found


@pytest.mark.golden(*D)
@pytest.mark.parametrize("number", range(7))
def test_a_template_with_demonstrations(golden, number):
    case = golden.case(*D, "template_conversion")[number]
    template = Template.parse(case["template"])
    head, tail = in_context(template, 3, "head"), in_context(template, 3, "tail")
    single = with_demonstrations(template, case["num_labels"])
    if "_step_1" in case["template"]:
        # Digits in literal text are text (specification 3.5): one text an example, and "step 1" stays.
        assert str(single).count("_step_1_was") == 3
        assert "*sent_1*" in str(single)
        assert "*sent_2*" in str(single)
        assert "*sent_3*" not in str(single)
        assert case["single"] != str(single)
        return
    same_template(single, case["single"])
    same_template(single, case["via_list"])
    same_template(head, case["in_context_head_3"])
    same_template(tail, case["in_context_tail_3"])


def data_of(golden, task, folder):
    """The task's files as the vectors describe them, read as a task."""
    config = builtin_task(task if task in ("mr", "sst-5", "trec") else f"glue/{task}")
    target = folder / config.folders[0]
    target.mkdir(parents=True)
    entry = golden("combos", "processors.json")["files"]
    files = next(value for name, value in entry.items() if name.lower() == task)
    for name, content in files.items():
        (target / name).write_bytes(content.encode("utf-8"))
    return load_task(config, folder), golden("combos", "processors.json")["processors"]


def numbers_of(task, rows):
    if task.regression:
        return [int(row.label > 2.5) for row in rows]  # the published rule for demonstrations; ours is `halves` (D15)
    return [task.labels.index(row.label) for row in rows]


@pytest.mark.golden(*D, "processors.json")
@pytest.mark.parametrize("number", range(6))
def test_drawn_demonstrations_and_their_tokens(golden, tmp_path, number):
    case = golden.case(*D, "demonstrations")[number]
    task, _ = data_of(golden, case["task"], tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizer")
    classes = numbers_of(task, task.train)
    count = 2 if task.regression else len(task.labels)
    generator = np.random.RandomState(case["seed"])
    template, options = Template.parse(case["template"]), case["options"]
    queries = task.train if case["mode"] == "train" else task.dev
    length = options.get("max_seq_length", 512) * (2 if options.get("double_demo") else 1)
    limits = (options.get("first_sent_limit"), options.get("other_sent_limit"))
    words = dict(task.config.label_words)
    ids = label_word_ids(words, list(words) if task.regression else task.labels, tokenizer)
    own = case["mode"] == "train"
    for entry, selected, feature in zip(case["example_idx"], case["selected_support_rows"], case["features"], strict=True):
        query, candidates, _ = entry
        assert candidates_for(query if own else None, len(task.train)) == candidates
        if options.get("gpt3_in_context_num"):
            chosen = draw_any(candidates, options["gpt3_in_context_num"], generator)
            shown = chosen
        else:
            chosen = draw(candidates, classes, count, generator)
            shown = ordered(chosen, classes, count)
        assert chosen == selected
        texts = [text for example in (queries[query], *(task.train[row] for row in shown)) for text in example.texts]
        encoding = template.encode(
            texts, tokenizer, Lengths(length, *limits, truncate_head=options.get("truncate_head", False)),
            label_word_ids=ids, support_labels=[classes[row] for row in shown],
        )  # fmt: skip
        assert encoding.input_ids == feature["input_ids"]
        assert [encoding.mask_position] == feature["mask_pos"]


@pytest.mark.golden(*D, "processors.json")
def test_each_context_has_its_own_template_d18(golden, tmp_path):
    case = golden.case(*D, "template_list_defect")
    task, _ = data_of(golden, "sst-2", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizer")
    templates = [Template.parse(text) for text in case["template_list"]]
    assert len(case["example_idx"]) == case["size"]
    for (query, sample), feature in zip(case["example_idx"], case["features"], strict=True):
        own = template_of(sample, templates).encode(task.dev[query].texts, tokenizer, Lengths(24))
        last = templates[-1].encode(task.dev[query].texts, tokenizer, Lengths(24))
        assert last.input_ids == feature["input_ids"]  # what the program encoded for every sample
        assert (own.input_ids == feature["input_ids"]) == (sample == case["num_sample"] - 1)


@pytest.mark.golden(*D)
def test_similar_examples(golden):
    for case in golden.case(*D, "filter"):
        labels = case["support_labels"]
        if case["task"] == "sts-b":
            classes, count = [int(float(label) > 2.5) for label in labels], 2
        else:
            names = builtin_task(f"glue/{case['task']}").labels
            classes, count = [names.index(label) for label in labels], len(names)
        supports = np.array(case["support_embeddings"])
        for query, expected in case["candidates"]:
            rows = candidates_for(query if case["mode"] == "train" else None, len(labels))
            found = similar(np.array(case["query_embeddings"][query]), supports, classes, rows, count, case["rate"])
            assert found == expected


def test_one_rule_for_the_halves_of_a_regression_d15():
    assert halves([0.0, 2.499, 2.5, 5.0], 2.5) == [0, 0, 1, 1]


@pytest.mark.golden(*D)
def test_logits_are_averaged_over_contexts(golden):
    case = golden.case(*D, "sample_average")
    mean = average(torch.tensor(case["logits"], dtype=torch.float64), case["num_sample"])
    torch.testing.assert_close(mean, torch.tensor(case["mean"], dtype=torch.float64), rtol=1e-9, atol=0)
    assert mean.argmax(dim=1).tolist() == case["pred"]
