"""Optimizers and schedules: reference vectors of three papers, then properties."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import transformers.optimization
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.errors import DeltatuneError
from deltatune.core.optim import Adafactor, OptimizerConfig, build_optimizer, schedule


def leaf(values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype).requires_grad_()


def run(optimizer, params, gradients, max_grad_norm=None):
    """Set the gradients, clip them jointly, update; the norm before clipping."""
    norm = 0.0
    for parameter, gradient in zip(params, gradients, strict=True):
        parameter.grad = torch.as_tensor(gradient, dtype=parameter.dtype).clone()
    if max_grad_norm is not None:
        norm = float(torch.nn.utils.clip_grad_norm_(params, max_grad_norm))
    optimizer.step()
    return norm


def close(params, expected):
    for parameter, values in zip(params, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), torch.tensor(values), atol=1e-6, rtol=1e-6)


@pytest.mark.golden("modeconn", "optimizer.json")
@pytest.mark.parametrize("index", [0, 1])
def test_adafactor_with_decay_and_clipping_as_modeconn(golden, index):
    case = golden.case("modeconn", "optimizer.json", "cases")[index]
    params = [leaf(values) for values in case["start"]]
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(params, case["weight_decay"], strict=True)]
    optimizer = Adafactor(groups, lr=case["lr"])
    for gradients, expected in zip(case["gradients"], case["parameters_after_each_step"], strict=True):
        run(optimizer, params, gradients, case["max_grad_norm"])
        close(params, expected)


@pytest.mark.golden("ensemble", "adafactor.json")
def test_adafactor_as_ensemble(golden):
    case = golden("ensemble", "adafactor.json")
    params = [leaf(values) for values in case["init"]]
    names = ("lr", "eps", "clip_threshold", "decay_rate", "beta1", "weight_decay")
    switches = ("scale_parameter", "relative_step", "warmup_init")
    optimizer = Adafactor(params, **{name: case[name] for name in (*names, *switches)})
    steps = zip(case["grads"], case["global_grad_norm_before_clip"], case["params_after_step"], strict=True)
    for gradients, norm, expected in steps:
        assert run(optimizer, params, gradients, case["max_grad_norm"]) == pytest.approx(norm, rel=1e-6)
        close(params, expected)


@pytest.mark.golden("subspace", "adafactor.json")
@pytest.mark.parametrize("index", [0, 1])
def test_adafactor_as_subspace(golden, index):
    case = golden.case("subspace", "adafactor.json", "runs")[index]
    params = [leaf(case["init"])]
    optimizer = build_optimizer(
        {"delta": params[0]}, OptimizerConfig("adafactor", lr=case["lr"], schedule="constant", max_grad_norm=None)
    )
    stated = golden.case("subspace", "adafactor.json", "settings")
    assert {name: optimizer.param_groups[0][name] for name in stated} == stated | {"eps": tuple(stated["eps"])}
    for gradient, expected in zip(case["grads"], case["params_after_each_step"], strict=True):
        run(optimizer, params, [gradient])
        close(params, [expected])


OPTIONS = (
    {"lr": 1e-2},
    {"lr": 3e-3, "scale_parameter": True, "weight_decay": 0.1},
    {"lr": 1e-2, "beta1": 0.9, "clip_threshold": 0.5},
    {"lr": 1e-2, "decay_rate": -0.5, "eps": (1e-6, 1e-2), "scale_parameter": True},
    {"relative_step": True},
    {"relative_step": True, "warmup_init": True, "scale_parameter": True, "beta1": 0.5, "weight_decay": 0.01},
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS)
def test_adafactor_agrees_with_transformers(options, dtype):
    noise = torch.Generator().manual_seed(0)
    shapes = [(), (5,), (3, 4), (1, 6), (2, 3, 4)]
    start = [torch.randn(shape, generator=noise).to(dtype) for shape in shapes]
    ours = [s.clone().requires_grad_() for s in start]
    theirs = [s.clone().requires_grad_() for s in start]
    mine = Adafactor(ours, **options)
    reference = transformers.optimization.Adafactor(
        theirs, **{"lr": None, "scale_parameter": False, "relative_step": False, **options}
    )
    for _ in range(5):
        gradients = [torch.randn(shape, generator=noise) for shape in shapes]
        run(mine, ours, gradients)
        run(reference, theirs, gradients)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6 if dtype == torch.float32 else 1e-2, rtol=1e-5)
    kept = [v for p in ours for v in mine.state[p].values() if isinstance(v, torch.Tensor)]
    assert kept
    assert {v.dtype for v in kept} == {torch.float32}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_optimizer_goes_on_bit_for_bit(name, dtype):
    noise = torch.Generator().manual_seed(1)
    config = OptimizerConfig(name, lr=1e-2, weight_decay=0.01)
    straight = {"w": torch.randn(4, 3, generator=noise).to(dtype).requires_grad_(), "bias": leaf([1.0, -1.0], dtype)}
    gradients = [[torch.randn(4, 3, generator=noise), torch.randn(2, generator=noise)] for _ in range(6)]
    first = build_optimizer(straight, config)
    for gradient in gradients[:3]:
        run(first, list(straight.values()), gradient)
    again = {n: t.detach().clone().requires_grad_() for n, t in straight.items()}
    second = build_optimizer(again, config)
    second.load_state_dict(deepcopy(first.state_dict()))
    for gradient in gradients[3:]:
        run(first, list(straight.values()), gradient)
        run(second, list(again.values()), gradient)
    assert all(torch.equal(straight[n], again[n]) for n in straight)


def test_adafactor_refuses_contradictory_rates():
    for options in ({}, {"lr": 1.0, "relative_step": True}, {"lr": 1.0, "warmup_init": True}):
        with pytest.raises(DeltatuneError, match="Adafactor"):
            Adafactor([leaf([1.0])], **options)


def test_adafactor_calls_its_closure_and_skips_tensors_without_gradient():
    used, idle = leaf([2.0]), leaf([3.0])
    optimizer = Adafactor([used, idle], lr=0.5)

    def closure():
        used.square().sum().backward()
        return 4.0

    assert optimizer.step(closure) == 4.0
    # The first step of a vector is the sign of its gradient times the rate.
    assert used.item() == pytest.approx(1.5)
    assert idle.item() == 3.0


def test_a_zero_gradient_leaves_the_parameter():
    parameter = leaf([[1.0, 2.0], [3.0, 4.0]])
    optimizer = Adafactor([parameter], lr=0.1)
    run(optimizer, [parameter], [torch.zeros(2, 2)])
    assert parameter.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_first_adamw_step_by_hand():
    params = {"w": leaf([2.0]), "LayerNorm.weight": leaf([2.0])}
    optimizer = build_optimizer(params, OptimizerConfig(lr=0.1, weight_decay=0.5))
    run(optimizer, list(params.values()), [[3.0], [3.0]])
    # Adam's first step is the sign of the gradient; decay takes lr * weight_decay * 2 from the first tensor only.
    assert params["w"].item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, abs=1e-6)
    assert params["LayerNorm.weight"].item() == pytest.approx(1.9, abs=1e-6)


def test_groups_follow_the_names():
    names = ("a.weight", "a.bias", "encoder.LayerNorm.weight", "block.layer_norm.weight", "b.weight")
    params = {name: leaf([float(i)]) for i, name in enumerate(names)}
    groups = build_optimizer(params, OptimizerConfig(lr=1e-3, weight_decay=0.01)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]
    assert [[p.item() for p in g["params"]] for g in groups] == [[0.0, 4.0], [1.0, 2.0, 3.0]]


def test_linear_schedule_by_hand():
    plain = OptimizerConfig(schedule="linear")
    assert [schedule(plain, t, 4) for t in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    warm = replace(plain, warmup=2)
    assert [schedule(warm, t, 6) for t in range(7)] == [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert [schedule(replace(plain, warmup=0.5), t, 4) for t in range(4)] == [0.0, 0.5, 1.0, 0.5]


def test_constant_schedule_honours_warmup():
    # Defect D8 of the ensemble programs: their constant schedule ignored the warm-up it was given.
    config = OptimizerConfig(schedule="constant", warmup=4)
    assert [schedule(config, t, 10) for t in (0, 1, 3, 4, 9)] == [0.0, 0.25, 0.75, 1.0, 1.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 500), st.integers(0, 500), st.sampled_from(["constant", "linear"]))
def test_schedule_agrees_with_transformers(total, warmup, kind):
    config = OptimizerConfig(schedule=kind, warmup=warmup)
    optimizer = torch.optim.SGD([leaf([0.0])], lr=1.0)
    if kind == "linear":
        theirs = transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
    else:
        theirs = transformers.get_constant_schedule_with_warmup(optimizer, warmup)
    for step in {0, 1, warmup // 2, warmup, total // 2, total - 1, total}:
        assert schedule(config, step, total) == pytest.approx(theirs.lr_lambdas[0](step), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "sgd"}, "'sgd'"),
        ({"schedule": "cosine"}, "'cosine'"),
        ({"lr": -1.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"warmup": 1.5}, "warmup"),
        ({"warmup": -1}, "warmup"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_a_bad_setting_is_named(change, named):
    with pytest.raises(DeltatuneError, match=named):
        OptimizerConfig(**change)


def test_what_cannot_be_trained_is_named():
    with pytest.raises(DeltatuneError, match="nothing to train"):
        build_optimizer({}, OptimizerConfig())
    with pytest.raises(DeltatuneError, match="frozen"):
        build_optimizer({"frozen": torch.zeros(2)}, OptimizerConfig())
    with pytest.raises(DeltatuneError, match="derived"):
        build_optimizer({"derived": leaf([1.0]) * 2}, OptimizerConfig())
