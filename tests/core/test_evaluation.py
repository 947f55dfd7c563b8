"""Scoring: what is averaged over what, in which portions, and what stays as it was."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn.functional import cross_entropy

from deltatune.core.data import Example, TaskConfig, build_task
from deltatune.core.delta import Full, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores, _portions, evaluate, run
from deltatune.core.formats import build_format

TEXTS = ["the movie was great", "bad", "this film is very plain and not good", "it is good", "a terrible film was it"]
NAMES = ("bert-head", "roberta-head", "roberta-prompt", "t5-text", "llama-head")


def examples_for(name):
    if name == "t5-text":
        answers = [("great", "good"), ("bad",), ("not very good",), ("good",), ("terrible and bad",)]
        return [Example((text,), None, found, id=str(i)) for i, (text, found) in enumerate(zip(TEXTS, answers, strict=True))]
    return [Example((text,), "abc"[i % 3], id=str(i)) for i, text in enumerate(TEXTS)]


def words_of(tokenizer):
    """Three words that are one token with a space in front."""
    vocabulary = sorted(token for token in tokenizer.get_vocab() if token.startswith("Ġ") and token[1:].isalpha())
    return dict(zip("abc", (token[1:] for token in vocabulary[:3]), strict=False))


@pytest.fixture
def asked(tiny, stir):
    """`asked(name)`: a tuned model, its form and five labelled examples."""

    def make(name):
        backbone, examples = tiny(name), examples_for(name)
        settings = {"reader": "gym", "metric": "EM"} if name == "t5-text" else {"reader": "jsonl", "metric": "accuracy"}
        if name == "roberta-prompt":
            settings |= {"template": "*cls**sent_0*_so*mask*.*sep+*", "label_words": words_of(backbone.tokenizer)}
        task = build_task(TaskConfig(name="t", **settings), examples, examples, examples)
        form = build_format(backbone, task)
        tuned = attach(backbone, Full())
        stir(tuned, std=0.05)
        return tuned, form, examples

    return make


@pytest.mark.parametrize("name", NAMES)
def test_neither_padding_nor_portions_change_the_scores(asked, name):
    tuned, form, examples = asked(name)
    together, alone = (evaluate(tuned, form, examples, tokens=tokens) for tokens in (10**6, 1))
    assert together.predictions == alone.predictions
    assert together.per_example == alone.per_example
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)
    turned = evaluate(tuned, form, examples[::-1])
    assert turned.predictions == together.predictions[::-1]
    assert turned.value == together.value


@pytest.mark.parametrize("name", ["bert-head", "t5-text"])
def test_the_loss_is_a_mean_over_examples_or_over_answer_tokens(asked, name):
    tuned, form, examples = asked(name)
    losses = []
    for feature in form.features(examples):
        batch = form.collate([feature])
        with torch.no_grad():
            logits = tuned(batch)
        losses += cross_entropy(logits.flatten(0, -2), batch["labels"].flatten(), reduction="none").tolist()
    assert len(losses) == (5 if name == "bert-head" else sum(len(feature["labels"]) for feature in form.features(examples)))
    for tokens in (10**6, 12):
        assert evaluate(tuned, form, examples, tokens=tokens).loss == pytest.approx(math.fsum(losses) / len(losses), rel=1e-5)


def test_portions_hold_what_the_budget_allows(asked):
    tuned, form, _ = asked("bert-head")
    features = [{"input_ids": [2] * length, "labels": 0} for length in (3, 1, 5, 3, 2)]
    shapes = []
    collate = form.collate

    def watched(rows):
        batch = collate(rows)
        shapes.append(tuple(batch["input_ids"].shape))
        return batch

    form.collate = watched
    run(tuned, form, features, tokens=6)
    assert shapes == [(1, 5), (2, 3), (2, 2)]  # longest first; the longest alone even where it is above the budget
    shapes.clear()
    run(tuned, form, features, tokens=2)
    assert shapes == [(1, 5), (1, 3), (1, 3), (1, 2), (1, 1)]


def test_a_large_batch_ends_where_texts_get_much_shorter():
    features = [{"input_ids": [2] * length} for length in [100] * 11 + [80] + [75] * 3 + [50] * 40]
    found = [len(portion) for portion in _portions(list(range(len(features))), features, 16384)]
    assert found == [12, 14, 29]  # 80 beside 100 stays; 75 does not, and takes 50 along until it holds 1,024 padded tokens
    few = [{"input_ids": [2] * length} for length in (100, 50, 10)]
    assert _portions([0, 1, 2], few, 16384) == [[0, 1, 2]]


def test_value_and_standard_error_by_hand(asked):
    tuned, form, examples = asked("bert-head")
    found, _ = run(tuned, form, form.features(examples))
    right = [Example(example.texts, "abc"[number], id="") for example, number in zip(examples, found, strict=True)]
    right[4] = Example(examples[4].texts, "abc"[(found[4] + 1) % 3])
    scores = evaluate(tuned, form, right)
    assert (scores.value, scores.n, scores.metric) == (0.8, 5, "accuracy")
    assert scores.per_example == [1, 1, 1, 1, 0]
    # Variance (4 * 0.2^2 + 0.8^2) / 4 = 0.2, of a mean of five 0.04.
    assert scores.stderr == pytest.approx(0.2)


def test_scoring_leaves_the_model_as_it_was(asked):
    tuned, form, examples = asked("bert-head")
    before = {name: tensor.clone() for name, tensor in tuned.parameters_by_name().items()}
    for training in (True, False):
        tuned.train(training)
        first, second = (evaluate(tuned, form, examples) for _ in range(2))
        assert first == second  # no dropout
        assert tuned.training is training
        assert all(module.training is training for module in tuned.model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.parameters_by_name().items())
    assert all(tensor.grad is None and tensor.requires_grad for tensor in tuned.parameters_by_name().values())


def test_the_mode_is_restored_after_an_error(asked):
    tuned, form, examples = asked("bert-head")
    form.predict = lambda logits: 1 / 0
    tuned.train()
    with pytest.raises(ZeroDivisionError):
        evaluate(tuned, form, examples)
    assert tuned.training


def test_too_little_memory_is_one_line(asked):
    tuned, form, examples = asked("bert-head")

    def full(logits):
        raise torch.OutOfMemoryError

    form.predict = full
    with pytest.raises(DeltatuneError, match="memory is too small to score 5 examples of 18 tokens; lower --max_length"):
        evaluate(tuned, form, examples)


@pytest.mark.parametrize("name", ["bert-head", "t5-text"])
def test_examples_without_labels_are_predicted_without_a_loss(asked, name):
    tuned, form, examples = asked(name)
    bare = [Example(example.texts, None) for example in examples]
    predictions, losses = run(tuned, form, form.features(bare))
    assert losses == []
    assert predictions == evaluate(tuned, form, examples).predictions


def test_no_examples_have_no_score(asked):
    tuned, form, _ = asked("bert-head")
    scores = evaluate(tuned, form, [])
    assert (scores.n, scores.predictions, math.isnan(scores.value), math.isnan(scores.loss)) == (0, [], True, True)


def test_numbers_for_a_record():
    nan = float("nan")
    scores = Scores(nan, "pearson", 0.5, None, 3, [1.0, 1.0, 1.0])
    assert scores.numbers() == {"value": None, "metric": "pearson", "loss": 0.5, "stderr": None, "n": 3}
    assert Scores(0.25, "accuracy", nan, 0.125, 4).numbers()["loss"] is None


def test_further_metrics_of_the_task_are_computed_when_asked_for(asked):
    tuned, form, examples = asked("bert-head")
    config = replace(form.task.config, extra_metrics=("macro_f1", "matthews", "accuracy"))
    form.task = replace(form.task, config=config)
    scores = evaluate(tuned, form, examples)
    truth = [form.classes[example.label] for example in examples]
    assert scores.others == ("macro_f1", "matthews")
    assert scores.extra["macro_f1"] == pytest.approx(f1_score(truth, scores.predictions, average="macro"))
    assert scores.numbers()["extra"] == scores.extra
    undefined = replace(scores, predictions=[0.0] * 5, references=[1.0] * 5, others=("pearson",))
    assert undefined.numbers()["extra"] == {"pearson": None}


def test_further_metrics_of_texts_have_their_names_for_texts(asked):
    tuned, form, examples = asked("t5-text")
    form.task = replace(form.task, config=replace(form.task.config, extra_metrics=("accuracy", "f1", "QA-F1", "EM")))
    scores = evaluate(tuned, form, examples)
    assert scores.others == ("ACC", "QA-F1")  # f1 scores no texts, EM is the task's own
    assert set(scores.numbers()["extra"]) == {"ACC", "QA-F1"}
