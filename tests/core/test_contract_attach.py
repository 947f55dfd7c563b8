"""What attaching, training and detaching any delta does to any backbone, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from deltatune.core.delta import DELTAS, BitFit, Full, Head, LoRA, Modules, attach, forward_with
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import flatten, unflatten


def hooks_of(model):
    """Every hook of every module, with its path."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return [(path, t, k) for path, module in model.named_modules() for t in tables for k in getattr(module, t)]


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_state(model, before):
    now = model.state_dict()
    assert list(now) == list(before)
    assert all(torch.equal(now[key], before[key]) for key in before)


def gradient_is_zero(config, parameter_name):
    """Tensors whose gradient is zero by mathematics at the start.

    A of a fresh LoRA (B is 0), the lower half of an adapter whose upper half is 0, and a bias on attention keys (it adds the
    same number to all scores of a query, which the softmax forgets; rounding leaves something near 0).
    """
    if isinstance(config, LoRA) and "lora_A" in parameter_name:
        return True
    if getattr(config, "init_std", None) == 0 and "houlsby_down" in parameter_name:
        return True
    return parameter_name.endswith((".key.bias", ".k.bias"))


def test_every_delta_is_under_the_contract(configs):
    assert {type(config) for config in configs.values()} == set(DELTAS.values())


def test_starts_where_the_base_stands_if_it_says_so(tiny_model, name, config, tuned, batch):
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    if name.endswith("-text"):
        inputs["labels"] = batch["labels"]
    with torch.no_grad():
        logits, expected = tuned(batch), tiny_model(name)(**inputs).logits
    if name.endswith("-prompt"):
        expected = expected[batch["input_ids"] == 4]
    assert logits.dtype == torch.float32
    same = torch.allclose(logits, expected, atol=1e-6)
    assert same == all(delta.identity_at_start for delta in tuned.kinds())


def test_only_the_delta_trains_and_the_base_stays(tiny, name, config, batch, loss_of):
    backbone = tiny(name)
    model = backbone.model
    before, hooks, kind = state_of(model), hooks_of(model), type(model)
    was_trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    tuned = attach(backbone, config, generator=torch.Generator().manual_seed(1))
    assert_same_state(model, before)
    parameters = tuned.parameters_by_name()
    assert {id(p) for p in tuned.parameters() if p.requires_grad} == {id(p) for p in parameters.values()}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    start = tuned.weights()
    for step in range(2):
        loss_of(tuned(batch), batch["labels"]).backward()
        for path, parameter in parameters.items():
            assert parameter.grad is not None, path
            if step == 0:
                largest = float(parameter.grad.abs().max())
                assert (largest < 1e-6) == gradient_is_zero(config, path), (path, largest)
        optimizer.step()
        optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert any(not torch.equal(w, start[n]) for n, w in tuned.weights().items())
    assert_same_state(model, before)
    assert type(model) is kind
    assert type(model).forward is kind.forward
    assert "forward" not in vars(model)
    assert tuned.detach() is backbone
    assert hooks_of(model) == hooks
    assert {n: p.requires_grad for n, p in model.named_parameters()} == was_trainable
    assert_same_state(model, before)


def test_detach_restores_what_was_trainable_and_lets_attach_again(tiny, name, config, batch, stir):
    backbone = tiny(name)
    chosen = next(iter(backbone.model.parameters()))
    chosen.requires_grad_(True)
    with torch.no_grad():
        plain = attach(backbone, head=False)
        before = plain(batch)
        plain.detach()
        first = attach(backbone, config, generator=torch.Generator().manual_seed(1))
        assert not chosen.requires_grad
        weights, logits = stir(first), first(batch)
        first.detach()
        assert [p.requires_grad for p in backbone.model.parameters()] == [p is chosen for p in backbone.model.parameters()]
        again = attach(backbone, head=False)
        assert torch.equal(again(batch), before)
        again.detach()
        second = attach(backbone, config, generator=torch.Generator().manual_seed(9))
        second.load(weights)
        torch.testing.assert_close(second(batch), logits, atol=1e-6, rtol=0)


def test_weights_load_and_forward_with_agree(tuned, batch, stir, loss_of):
    fresh = tuned.weights()
    wanted = stir(tuned)
    names = list(tuned.parameters_by_name())
    read = tuned.weights()
    assert list(read) == names
    for key, tensor in read.items():
        torch.testing.assert_close(tensor, wanted[key], atol=1e-6, rtol=1e-6)
        assert not tensor.requires_grad
        assert tensor.dtype == torch.float32
    with torch.no_grad():
        loaded = tuned(batch)
        tuned.load(fresh)
        torch.testing.assert_close(forward_with(tuned, read)(batch), loaded, atol=1e-6, rtol=0)
        for key, tensor in tuned.weights().items():
            torch.testing.assert_close(tensor, fresh[key], atol=1e-6, rtol=1e-6)
        # Names decide, not order.
        backwards = dict(reversed(read.items()))
        torch.testing.assert_close(forward_with(tuned, backwards)(batch), loaded, atol=1e-6, rtol=0)
    vector = flatten(read).requires_grad_()
    loss_of(forward_with(tuned, unflatten(vector, read))(batch), batch["labels"]).backward()
    assert vector.grad.shape == vector.shape
    assert vector.grad.abs().sum() > 0
    assert all(p.grad is None for p in tuned.parameters())
    assert torch.equal(flatten(unflatten(vector.detach(), read)), vector.detach())
    for key, tensor in unflatten(flatten(read, input_major=True), read, input_major=True).items():
        assert torch.equal(tensor, read[key])


def test_weights_are_copies(tuned, batch):
    with torch.no_grad():
        before = tuned(batch)
        for tensor in tuned.weights().values():
            tensor.add_(1.0)
        assert torch.equal(tuned(batch), before)


def test_load_refuses_other_names_and_shapes_and_changes_nothing(tuned):
    weights = tuned.weights()
    key = list(weights)[-1]
    without = {k: w + 1 for k, w in weights.items() if k != key}
    with pytest.raises(ValueError, match=f"missing {key}"):
        tuned.load(without)
    with pytest.raises(ValueError, match="extra nowhere"):
        tuned.load({**weights, "nowhere": torch.zeros(1)})
    with pytest.raises(ValueError, match=f"{key} is "):
        tuned.load({**{k: w + 1 for k, w in weights.items()}, key: torch.zeros(1, 2, 3)})
    assert all(torch.equal(w, weights[k]) for k, w in tuned.weights().items())


def test_a_seed_repeats_and_another_differs(tiny, name, config):
    fresh = frozenset(n for n, _ in tiny(name).model.named_parameters() if n.startswith(("classifier", "score")))

    def draw(seed):
        torch.manual_seed(seed + 100)  # the global stream must not matter
        backbone = tiny(name, fresh=fresh)
        return attach(backbone, config, generator=torch.Generator().manual_seed(seed)).weights()

    zero, again, other = draw(0), draw(0), draw(7)
    assert all(torch.equal(zero[key], again[key]) for key in zero)
    random = name.endswith("-head") or not isinstance(config, BitFit | Full | Modules)
    assert any(not torch.equal(zero[key], other[key]) for key in zero) == random


def test_no_generator_is_seed_zero(tiny):
    backbone = tiny("roberta-head")
    tuned = attach(backbone, LoRA(rank=2))
    first = tuned.weights()
    tuned.detach()
    second = attach(backbone, LoRA(rank=2), generator=torch.Generator().manual_seed(0)).weights()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_head_is_attached_once_and_only_where_there_is_one(tiny):
    tuned = [attach(tiny("roberta-head"), *configs) for configs in ([LoRA(), Head()], [LoRA()])]
    assert tuned[0].head_names == tuned[1].head_names != []
    assert attach(tiny("roberta-head"), LoRA(), head=False).head_names == []
    assert attach(tiny("t5-text"), LoRA()).head_names == []
    assert attach(tiny("roberta-prompt"), LoRA()).head_names == []


def test_a_model_carries_one_set_of_deltas_at_a_time(tiny):
    backbone = tiny("roberta-head")
    tuned = attach(backbone, LoRA(rank=2))
    with pytest.raises(DeltatuneError, match="carries deltas already; detach them first"):
        attach(backbone, LoRA(rank=2))
    attach(tuned.detach(), LoRA(rank=2))
