"""Adapter, LoRA and prefix on their own, and how fresh ones start, against the reference vectors of four papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import wrap
from deltatune.core.delta import Houlsby, LoRA, Prefix, attach
from deltatune.core.delta.base import add_to_output, change_output
from deltatune.core.delta.houlsby import Bottleneck
from deltatune.core.delta.lora import Factors
from deltatune.core.delta.prefix import StackPrefix
from deltatune.core.legacy import rename
from deltatune.core.weights import unflatten

CPU = torch.device("cpu")


def tensor(values):
    return torch.as_tensor(np.asarray(values, dtype=np.float32))


def generator():
    return torch.Generator().manual_seed(0)


def close(actual, expected, atol=1e-5, rtol=1e-5):
    torch.testing.assert_close(actual.detach(), tensor(expected), atol=atol, rtol=rtol)


def fill(module, **values):
    """Put the values of an npz or JSON entry into a module, by parameter name with `_` for `.`."""
    parameters = {name.replace(".", "_"): parameter for name, parameter in module.named_parameters()}
    assert set(parameters) == set(values)
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(tensor(value))
    return module


def bottleneck(down, up, activation="silu", biases=()):
    """An adapter from matrices written (in, out)."""
    down, up = tensor(down), tensor(up)
    config = Houlsby(width=down.shape[1], activation=activation, bias=bool(biases))
    named = dict(zip(("houlsby_down_bias", "houlsby_up_bias"), biases, strict=False))
    made = Bottleneck(config, down.shape[0], CPU, generator())
    return fill(made, houlsby_down_weight=down.T, houlsby_up_weight=up.T, **named)


def linear(weight):
    weight = tensor(weight)
    return fill(nn.Linear(weight.shape[1], weight.shape[0], bias=False), weight=weight)


def lora(base, first, second, alpha):
    """Factors from matrices written (in, out), hooked to `base` as `attach` hooks them; the handle removes them."""
    first, second = tensor(first), tensor(second)
    made = Factors(LoRA(rank=first.shape[1], alpha=alpha, init="fan_rank"), base, generator())
    part = fill(made, lora_A_weight=first.T, lora_B_weight=second.T)
    return part, base.register_forward_hook(lambda module, args, output: add_to_output(part, module, args, output))


def prefix(table, down, up, layers, heads):
    table, down = tensor(table), tensor(down)
    length, d = table.shape
    made = StackPrefix(Prefix(length=length, width=down.shape[0]), (layers, heads, d // heads, d), CPU, generator())
    return fill(made, prefix_embedding=table, prefix_down_weight=down, prefix_up_weight=up)


@pytest.mark.golden("modeconn", "modules.json")
@pytest.mark.parametrize("case", ["adapter_swish", "adapter_relu", "adapter_with_bias"])
def test_adapter_as_modeconn(golden, case):
    entry = golden.case("modeconn", "modules.json", case)
    biases = (entry["a_bias"], entry["b_bias"]) if "a_bias" in entry else ()
    adapter = bottleneck(entry["A"], entry["B"], entry.get("activation", "silu"), biases)
    close(adapter(tensor(entry["x"])), entry["y"])


@pytest.mark.golden("ensemble", "modules.json")
@pytest.mark.parametrize(("case", "activation"), [("adapter_houlsby", "silu"), ("adapter_relu", "relu")])
def test_adapter_as_ensemble(golden, case, activation):
    entry = golden.case("ensemble", "modules.json", case)
    adapter, x = bottleneck(entry["adapter_A"], entry["adapter_B"], activation), tensor(entry["x"])
    close(adapter(x), entry["out_residual_is_x"], atol=1e-6)
    # The bottleneck alone, on top of another stream.
    close(adapter(x) - x + tensor(entry["residual"]), entry["out"], atol=1e-6)


@pytest.mark.golden("subspace", "modules.npz")
@pytest.mark.parametrize(("case", "activation"), [("adapter", "silu"), ("adapter_relu", "relu")])
def test_adapter_from_a_flat_vector_as_subspace(golden, case, activation):
    entry = golden("subspace", "modules.npz")
    x, flat = tensor(entry["adapter/x"]), tensor(entry["adapter/flat"])
    d = x.shape[-1]
    adapter = Bottleneck(Houlsby(width=flat.numel() // (2 * d), activation=activation, bias=False), d, CPU, generator())
    adapter.load_state_dict(unflatten(flat, dict(adapter.named_parameters()), input_major=True))
    close(adapter(x) - x + tensor(entry["adapter/residual"]), entry[f"{case}/out"], atol=2e-5)


@pytest.mark.golden("recyclable", "adapter_forward_v02.json", "adapter_forward_v03.json")
@pytest.mark.parametrize("version", ["v02", "v03"])
def test_adapter_layer_and_gradient_as_recyclable(golden, version):
    entry = golden.case("recyclable", f"adapter_forward_{version}.json", "layer")
    config = Houlsby(width=entry["bottleneck"], activation="gelu_new")
    named = {name.removeprefix("modulelist.").replace(".", "_"): value for name, value in entry["weights"].items()}
    adapter = fill(
        Bottleneck(config, entry["hidden"], CPU, generator()),
        **{f"houlsby_{name.replace('_proj', '')}": value for name, value in named.items()},
    )
    x = tensor(entry["x"]).requires_grad_()
    y = adapter(x)
    close(y, entry["y"])
    y.square().sum().backward()
    close(x.grad, entry["grad_x_of_sum_y_squared"], atol=1e-4, rtol=1e-4)


@pytest.mark.golden("combos", "forward.npz", "forward_weights.npz")
def test_adapter_block_as_combos(golden):
    entry, weights = golden("combos", "forward.npz"), golden("combos", "forward_weights.npz")
    path = "roberta.encoder.layer.0.output"
    names = rename({name: tensor(weights[name]) for name in weights.files if name.startswith(f"{path}.layer_text")})
    adapter = fill(
        Bottleneck(Houlsby(), 32, CPU, generator()),
        **{name.removeprefix(f"{path}.dropout.").replace(".", "_"): value for name, value in names.items()},
    )
    x = tensor(entry["adapter_block/x"])
    close(nn.functional.silu(adapter.houlsby_down(x)), entry["adapter_block/down"], rtol=1e-4)
    close(adapter(x) - x, entry["adapter_block/up"], rtol=1e-4)
    close(adapter(x) - x + tensor(entry["adapter_block/residual"]), entry["adapter_block/output"], rtol=1e-4)


def test_an_adapter_changes_the_first_element_of_a_tuple():
    adapter, h = bottleneck(torch.ones(2, 1), torch.ones(1, 2)), torch.ones(1, 2)
    changed, rest = change_output(adapter, nn.Identity(), (h,), (h, "scores"))
    close(changed, h + 2 * torch.sigmoid(torch.tensor(2.0)))
    assert rest == "scores"


@pytest.mark.golden("modeconn", "modules.json")
def test_lora_as_modeconn(golden):
    entry = golden.case("modeconn", "modules.json", "lora")
    base, x = linear(entry["W"]), tensor(entry["x"])
    close(base(x), entry["y_without_delta"])
    part, handle = lora(base, entry["A"], entry["B"], entry["alpha"])
    close(base(x), entry["y"])
    handle.remove()
    close(nn.functional.linear(x, base.weight + part.update()), entry["y"])


@pytest.mark.golden("ensemble", "modules.json")
def test_lora_as_ensemble_is_the_same_in_evaluation(golden):
    entry = golden.case("ensemble", "modules.json", "lora_linear")
    base, x = linear(entry["weight"]), tensor(entry["x"])
    part, _ = lora(base, entry["lora_A"], entry["lora_B"], entry["alpha"])
    assert part.scale == entry["scaling"]
    close(base(x), entry["out"], atol=1e-6)
    base.eval(), part.eval()
    close(base(x), entry["out_after_eval"], atol=1e-6)
    close(base.weight, entry["weight"], atol=0, rtol=0)


@pytest.mark.golden("subspace", "modules.npz")
def test_lora_from_a_flat_vector_as_subspace(golden):
    entry = golden("subspace", "modules.npz")
    base, x = linear(entry["lora/weight"]), tensor(entry["lora/x"])
    close(base(x), entry["lora/out_off"], atol=2e-5)
    part = Factors(LoRA(rank=int(entry["lora/r"]), alpha=float(entry["lora/alpha"])), base, generator())
    part.load_state_dict(unflatten(tensor(entry["lora/flat"]), dict(part.named_parameters()), input_major=True))
    close(base(x) + part(x), entry["lora/out"], atol=2e-5)


@pytest.mark.golden("subspace", "modules.npz")
def test_rectangular_lora_as_subspace(golden):
    entry = golden("subspace", "modules.npz")
    base, x = linear(entry["lora_param/weight"]), tensor(entry["lora/x"])
    lora(base, entry["lora_param/A"], entry["lora_param/B"], float(entry["lora/alpha"]))
    close(base(x), entry["lora_param/out"], atol=2e-5)


@pytest.mark.golden("modeconn", "modules.json")
def test_prefix_as_modeconn(golden):
    entry = golden.case("modeconn", "modules.json", "prefix")
    made = prefix(entry["prefix"], entry["W1"], entry["W2"], entry["num_layers"], entry["num_heads"])
    found = made.keys_values()
    assert list(found.shape) == entry["shape"]
    close(found, entry["key_values_original_layout"])
    close(found.reshape(entry["prefix_num"], -1), entry["mlp_output"])
    # The split layout puts position p of M into column p of every layer.
    made.layout = "split"
    rows = made.keys_values().permute(3, 0, 1, 2, 4).reshape(entry["prefix_num"], -1)
    close(rows, entry["mlp_output"])


@pytest.mark.golden("ensemble", "modules.json")
def test_prefix_as_ensemble(golden):
    entry = golden.case("ensemble", "modules.json", "prefix")
    found = prefix(entry["prefix"], entry["W0"], entry["W2"], entry["num_layers"], entry["heads"]).keys_values()
    assert list(found.shape) == entry["out_shape"]
    close(found, entry["out"], atol=1e-6)


@pytest.mark.golden("subspace", "modules.npz")
def test_prefix_from_a_flat_vector_as_subspace(golden):
    entry = golden("subspace", "modules.npz")
    length, width, layers, heads, d = (
        int(entry[f"prefix/{name}"]) for name in ("prefix_num", "prefix_r", "num_layers", "heads", "d_model")
    )
    made = StackPrefix(Prefix(length=length, width=width), (layers, heads, d // heads, d), CPU, generator())
    made.load_state_dict(unflatten(tensor(entry["prefix/flat"]), dict(made.named_parameters()), input_major=True))
    close(made.keys_values(), entry["prefix/out"], atol=2e-5)


@pytest.mark.golden("modeconn", "modules.json")
def test_lora_start_as_modeconn(golden):
    """The same number of draws as in the vector; `standard` has the usual bound instead."""
    entry = golden.case("modeconn", "modules.json", "lora_init")
    base = nn.Linear(4000, 3, bias=False)
    part = Factors(LoRA(rank=entry["r"], init="fan_rank"), base, generator())
    largest = float(part.lora_A.weight.abs().max().detach())
    assert largest == pytest.approx(entry["A_abs_max_over_sample"], rel=1e-2)
    assert largest <= entry["A_expected_bound"]
    assert bool((part.lora_B.weight == 0).all()) is entry["B_all_zero"]
    usual = Factors(LoRA(rank=entry["r"]), base, generator())
    torch.testing.assert_close(usual.lora_A.weight, part.lora_A.weight * (entry["r"] / 4000) ** 0.5)


@pytest.mark.golden("ensemble", "checkpoint_layout.json")
@pytest.mark.parametrize("kind", ["adapter", "lora", "prefix"])
def test_starting_values_as_ensemble(golden, kind):
    entry = golden.case("ensemble", "checkpoint_layout.json", "init_statistics")[kind]
    d, sizes = entry["d_model"], entry["delta"]
    config = {
        "adapter": lambda: Houlsby(width=sizes["adapter_size"], bias=False),
        "lora": lambda: LoRA(rank=sizes["lora_r"], alpha=sizes["lora_alpha"], init="fan_rank"),
        "prefix": lambda: Prefix(length=sizes["prefix_num"], width=sizes["prefix_r"]),
    }[kind]()
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=8, d_model=d, d_kv=d // 4, num_heads=4, d_ff=8, num_layers=6, feed_forward_proj="gated-gelu")
    )
    weights = attach(wrap(model), config).weights()
    ends = {
        "adapter_A": "houlsby_down.weight",
        "adapter_B": "houlsby_up.weight",
        "lora_A": "lora_A.weight",
        "lora_B": "lora_B.weight",
        "prefix": "prefix_embedding",
        "prefix_project.0.weight": "prefix_down.weight",
        "prefix_project.2.weight": "prefix_up.weight",
    }
    for group, expected in entry["groups"].items():
        values = torch.cat([value.flatten() for name, value in weights.items() if name.endswith(ends[group])])
        assert values.numel() == expected["n"]
        assert float(values.std()) == pytest.approx(expected["std"], rel=0.05)
        assert abs(float(values.mean())) < max(0.05 * expected["std"], 1e-12)
        if "lora" in group or "project" in group:  # uniform: the largest value shows the bound
            assert float(values.abs().max()) == pytest.approx(expected["max_abs"], rel=0.05)
