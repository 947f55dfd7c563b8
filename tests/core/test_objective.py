"""The objective of an update is the same split by a token budget, dealt over processes, or whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.batches import Batches
from deltatune.core.data import Example, TaskConfig, build_task
from deltatune.core.delta import LoRA, attach
from deltatune.core.evaluation import run
from deltatune.core.formats import TextFormat, build_format
from deltatune.core.train_config import TrainConfig

WORDS = "the a movie was great good bad terrible and not it is this film very plain".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def texts(tiny):
    """(a tuned T5 that acts, its format, features whose answers have from 2 to 9 tokens)"""
    config = TaskConfig(name="t", reader="gym", metric="EM")
    train = [
        Example((" ".join(WORDS[: 3 + 5 * i % 11]),), label=None, answers=(" ".join(WORDS[: 1 + 3 * i % 8]), "good"), id=str(i))
        for i in range(11)
    ]
    task = build_task(config, train, train[:2], train[:2])
    tuned = attach(tiny("t5-text"), LoRA(rank=2), generator=torch.Generator().manual_seed(1))
    noise = torch.Generator().manual_seed(2)
    tuned.load({name: w + 0.3 * torch.randn(w.shape, generator=noise) for name, w in tuned.weights().items()})
    tuned.double()  # so that sums in another order differ by next to nothing
    form = build_format(tuned.backbone, task)
    return tuned, form, form.features(task.train)


def gradients(texts, step, accumulation, world=1, budget=None):
    """Objective and gradient of one update, summed over parts and processes."""
    tuned, form, features = texts
    batches = TrainConfig(batch_size=4, token_budget=budget).batches(features, form.collate, form.choose, form.weigh)
    parts = [part for rank in range(world) for part in batches.micro_batches(step, accumulation, rank, world)]
    params = tuned.parameters_by_name()
    value = sum(part.weight * form.loss(tuned(part.batch), part.batch) for part in parts)
    return [value.detach(), *torch.autograd.grad(value, list(params.values()))], parts


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.integers(1, 3), st.sampled_from([None, 1, 30, 45]))
def test_parts_and_processes_leave_the_objective_of_texts_as_it_is(texts, step, accumulation, world, budget):
    whole, _ = gradients(texts, step, accumulation)
    split, parts = gradients(texts, step, accumulation, world, budget)
    assert sum(part.weight for part in parts) == pytest.approx(1.0)
    for one, other in zip(whole, split, strict=True):
        assert float((one - other).norm()) <= 1e-6 * float(one.norm())


def test_the_objective_is_the_mean_over_answer_tokens_of_a_micro_batch_and_over_the_examples_of_micro_batches(texts):
    tuned, form, features = texts
    batches = Batches(features, form.collate, 4, 0, choose=form.choose, weigh=form.weigh)
    (value, *_), _ = gradients(texts, 0, 3)
    expected, rows = 0.0, 0
    for part in batches.micro_batches(0, 3):
        labels = part.batch["labels"]
        chances = tuned(part.batch).log_softmax(dim=2).gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
        expected -= part.rows * float(chances[labels != -100].mean().detach())
        rows += part.rows
    assert rows == 11
    assert float(value) == pytest.approx(expected / rows, rel=1e-6)


def test_an_example_weighs_the_tokens_of_the_answer_drawn(texts):
    _, form, features = texts
    batches = Batches(features, form.collate, 11, 0, token_budget=1, choose=form.choose, weigh=form.weigh)
    parts = batches.micro_batches(0)
    tokens = [int((part.batch["labels"] != -100).sum()) for part in parts]
    assert [part.weight for part in parts] == pytest.approx([count / sum(tokens) for count in tokens])
    assert sorted(tokens) != sorted(form.weigh(feature) for feature in features)  # some drew the second answer


def test_the_budget_counts_answers_too(texts):
    _, form, features = texts
    batches = Batches(features, form.collate, 11, 0, token_budget=40, choose=form.choose, weigh=form.weigh)
    parts = batches.micro_batches(0)
    assert 1 < len(parts) < 11
    assert all(part.rows == 1 or part.rows * (part.length + part.batch["labels"].shape[1]) <= 40 for part in parts)
    assert any(part.rows > 1 for part in parts)
    # So it would be without them.
    inputs = Batches(features, form.collate, 11, 0, token_budget=40, lengths=lambda feature: (len(feature["input_ids"]),))
    assert len(inputs.micro_batches(0)) < len(parts)


def test_as_many_tokens_are_generated_as_an_answer_may_have(texts, monkeypatch):
    tuned, _, features = texts
    form, lengths = TextFormat(texts[1].task, tuned.backbone.tokenizer, 20, max_answer=4), []
    monkeypatch.setattr(tuned.backbone.model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(form, "predict", lambda ids: lengths.append(ids.shape[1]) or [""] * len(ids))
    run(tuned, form, features[:2])
    assert lengths == [1 + 4]  # the start token and the answer
