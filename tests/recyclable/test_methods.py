"""Properties of the pure parts: distillation, projection, similarity, what is put on a new base."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RobertaConfig, RobertaForSequenceClassification

from deltatune.core.backbone import wrap
from deltatune.core.checkpoint import Saved, base_record
from deltatune.core.delta import BitFit, Full, Houlsby, LoRA, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.groups import part_of
from deltatune.core.paths import barrier, drop, end_of, grid, walk
from deltatune.core.probes import attention, with_states
from deltatune.core.weights import lerp
from deltatune.recyclable import HeadCorrelation, Projection, Recycling, learn, logit_loss, patience_loss, project, put
from deltatune.recyclable.distill import Distillation

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "num_labels": 3}


def base(seed=0, words=30):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return wrap(RobertaForSequenceClassification(RobertaConfig(vocab_size=words, max_position_embeddings=20, **SIZES)))


def noise(weights, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: w + 0.1 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}


def saved(config, seed=0):
    """A delta on `base(seed)` that acts."""
    tuned = attach(base(seed), config)
    tuned.load(noise(tuned.weights()))
    kinds = tuple(delta.config for delta in tuned.kinds())
    return tuned, Saved(tuned.weights(), kinds, base_record(tuned.backbone), tuple(tuned.head_names))


BATCH = {
    "input_ids": torch.tensor([[0, 5, 7, 9, 2], [0, 8, 2, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
KINDS = [Full(), Houlsby(width=3), LoRA(rank=2), BitFit()]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: type(config).__name__)
def test_a_delta_put_on_its_own_base_computes_the_same_and_at_scale_0_only_the_head_acts(config):
    tuned, delta = saved(config)
    same = attach(base(), config)
    put(delta, same)
    torch.testing.assert_close(same(BATCH), tuned(BATCH))
    put(delta, same, Recycling(scale=0.0))
    alone = attach(base())
    alone.load({name: delta.weights[name] for name in delta.head})
    torch.testing.assert_close(same(BATCH), alone(BATCH))


def test_a_prompt_has_no_scale_and_a_head_of_other_width_is_refused():
    _, prompt = saved(SoftPrompt(length=2))
    with pytest.raises(DeltatuneError, match="the effect of a SoftPrompt has no factor"):
        put(prompt, attach(base(), SoftPrompt(length=2)), Recycling(scale=0.5))
    _, delta = saved(LoRA(rank=2))
    model = RobertaForSequenceClassification(
        RobertaConfig(vocab_size=30, max_position_embeddings=20, **{**SIZES, "num_labels": 5})
    )
    wider = attach(wrap(model), LoRA(rank=2))
    with pytest.raises(DeltatuneError, match="or start with --head_init fresh"):
        put(delta, wider)
    put(delta, wider, Recycling("fresh"))


def test_a_full_delta_on_an_extended_vocabulary_leaves_new_words_as_they_are():
    _, delta = saved(Full())
    larger = attach(base(3, words=33), Full())
    put(delta, larger)
    name = "roberta.embeddings.word_embeddings.weight"
    moved = larger.weights()[name]
    torch.testing.assert_close(moved[:30], delta.weights[name], atol=1e-6, rtol=0)
    assert not moved[30:].any()


def test_the_published_sum_of_heads_differs_from_the_copy_by_two_random_draws():
    _, delta = saved(LoRA(rank=2))
    new = attach(base(3), LoRA(rank=2), generator=torch.Generator().manual_seed(5))
    fresh = new.weights()
    put(delta, new, Recycling("arithmetic"), torch.Generator().manual_seed(6))
    name = "classifier.dense.weight"
    gap = new.weights()[name] - delta.weights[name]
    assert float((gap - fresh[name]).std()) == pytest.approx(0.02, rel=0.2)
    assert torch.equal(
        new.weights()["classifier.dense.bias"], fresh["classifier.dense.bias"] + delta.weights["classifier.dense.bias"]
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.floats(0.5, 20))
def test_distillation_is_zero_for_equal_sides_and_positive_else(batch, classes, temperature):
    logits = torch.randn(batch, classes, generator=torch.Generator().manual_seed(batch * classes))
    assert float(logit_loss(logits, logits, temperature)) == pytest.approx(0, abs=1e-4)
    assert float(logit_loss(logits, logits.flip(1) * 2 + 1, temperature)) >= 0
    assert float(logit_loss(logits, logits + 3.0, temperature)) == pytest.approx(0, abs=1e-3)


def test_settings_and_sizes_are_checked():
    for wrong in ({"alpha": 1.5}, {"beta": -1.0}, {"temperature": 0.0}):
        with pytest.raises(DeltatuneError, match=next(iter(wrong))):
            Distillation(**wrong)
    with pytest.raises(DeltatuneError, match="set beta 0"):
        patience_loss(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4))


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 5), st.integers(0, 100))
def test_a_learnt_projection_maps_what_it_saw_and_keeps_to_its_rank(tasks, seed):
    generator = torch.Generator().manual_seed(seed)
    old, new = ([{"w": torch.randn(4, 5, generator=generator)} for _ in range(tasks)] for _ in range(2))
    mapped = learn(old, new, rank=16, ridge=1e-9)
    assert mapped.down.shape[1] <= tasks
    for before, after in zip(old, new, strict=True):
        torch.testing.assert_close(project(mapped, before)["w"], after["w"], atol=1e-3, rtol=1e-3)
    narrow = learn(old, new, rank=1)
    assert narrow.down.shape[1] == 1
    with pytest.raises(DeltatuneError, match="the projection is for 20 values"):
        project(mapped, {"w": torch.zeros(3)})


def test_a_projection_needs_two_tasks_and_fitting_shapes():
    with pytest.raises(DeltatuneError, match="at least two tasks"):
        learn([{"w": torch.zeros(2)}], [{"w": torch.zeros(2)}], rank=1)
    with pytest.raises(DeltatuneError, match=r"W1 \(d, r\)"):
        Projection(torch.zeros(4, 2), torch.zeros(3, 4), torch.zeros(4))


def test_states_and_attention_are_those_the_model_reports():
    tuned, _ = saved(Houlsby(width=3, placement="after_norm"))
    logits, states = with_states(tuned, BATCH)
    reported = tuned.call(BATCH, output_hidden_states=True)
    torch.testing.assert_close(logits, reported.logits)
    for own, theirs in zip(states, reported.hidden_states, strict=True):
        torch.testing.assert_close(own, theirs)
    maps = attention(tuned, BATCH)
    assert [layer.shape for layer in maps] == [(2, 2, 5, 5)] * 2
    torch.testing.assert_close(maps[0].sum(dim=-1), torch.ones(2, 2, 5))
    torch.testing.assert_close(tuned(BATCH), logits)


def test_correlation_of_heads_is_pearsons_over_real_tokens_and_does_not_depend_on_batches():
    generator = torch.Generator().manual_seed(0)
    sides = [[torch.rand(3, 2, 4, 4, generator=generator) for _ in range(2)] for _ in range(2)]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    whole, parts = HeadCorrelation(), HeadCorrelation()
    whole.add(*sides, mask)
    for row in range(3):
        parts.add(*([layer[row : row + 1] for layer in side] for side in sides), mask[row : row + 1])
    torch.testing.assert_close(whole.result(), parts.result())
    valid = (mask[:, :, None] * mask[:, None, :]).bool()
    pairs = torch.stack([side[1][:, 0][valid] for side in sides])
    assert float(whole.result()[1, 0]) == pytest.approx(float(torch.corrcoef(pairs)[0, 1]), abs=1e-6)
    with pytest.raises(DeltatuneError, match="one architecture"):
        whole.add(sides[0], sides[1][:1], mask)


def test_a_walk_over_a_light_delta_is_the_line_of_its_weights_and_leaves_the_model_as_it_was():
    tuned, delta = saved(LoRA(rank=2))
    left, before = end_of(tuned, with_base=True), {n: p.detach().clone() for n, p in tuned.model.named_parameters()}
    other, _ = saved(LoRA(rank=2), seed=4)
    other.load(noise(other.weights(), seed=9))
    right = end_of(other, with_base=True)
    found = list(walk(tuned, [left, right], grid(3), lambda: {"logits": tuned(BATCH).detach()}))
    torch.testing.assert_close(found[0]["logits"], tuned(BATCH))
    torch.testing.assert_close(found[2]["logits"], other(BATCH))
    assert all(torch.equal(before[name], p) for name, p in tuned.model.named_parameters())
    other.load(lerp(delta.weights, other.weights(), 0.5))
    only = list(walk(tuned, [end_of(tuned), end_of(other)], [1.0], lambda: {"logits": tuned(BATCH).detach()}))
    tuned.load(other.weights())
    torch.testing.assert_close(only[0]["logits"], tuned(BATCH))


def test_barrier_and_drop_are_measured_from_the_chord():
    assert barrier([0, 0.5, 1], [1.0, 3.0, 2.0]) == pytest.approx(1.5)
    assert drop([0, 0.5, 1], [0.9, 0.5, 0.7]) == pytest.approx(0.3)
    assert barrier([0, 0.5, 1], [1.0, 1.0, 2.0]) == 0


def test_parts_of_a_model():
    tuned, _ = saved(Full())
    parts = {part_of(name, tuned.backbone.sites) for name in tuned.weights()}
    assert parts == {"embeddings", "attention", "feed-forward", "norms", "head"}
    assert part_of("encoder.layer.0.attention.output.LayerNorm.houlsby_up.weight") == "attention"
