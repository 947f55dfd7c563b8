"""Arithmetic on deltas, distances, paths through a whole model and short training runs against the reference vectors."""

from __future__ import annotations

import json
from math import comb, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import RobertaConfig, RobertaForSequenceClassification, T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import base_tensors, untie, wrap
from deltatune.core.delta import Full, LoRA, attach, forward_with
from deltatune.core.errors import DeltatuneError
from deltatune.core.legacy import infer_config, rename
from deltatune.core.optim import Adafactor
from deltatune.core.weights import add, combine, cosine, difference, distance, flatten, lerp, norm, unflatten

INTEGER_BUFFER = "roberta.embeddings.position_ids"
T5 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "pad_token_id": 0, "decoder_start_token_id": 0}


def tensors(state):
    return {name: torch.tensor(values) for name, values in state.items()}


def floating(state):
    return {name: value for name, value in tensors(state).items() if value.is_floating_point()}


def under(archive, prefix):
    return {key.removeprefix(prefix): torch.tensor(archive[key]) for key in archive.files if key.startswith(prefix)}


def same(actual, expected, tolerance=1e-6):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].detach(), torch.as_tensor(value).float(), atol=tolerance, rtol=tolerance)


def length(weights):
    return flatten(weights).numel()


@pytest.mark.golden("recyclable", "delta_apply.json")
def test_a_whole_model_delta_moves_to_another_base_with_its_head_copied_d1(golden):
    """`direct_apply_result`; the published old-init sum of two unrelated heads (defect D1) is not the default."""
    entry = golden("recyclable", "delta_apply.json")
    old, tuned, new = (floating(entry[name]) for name in ("theta_old", "theta_tuned", "theta_new"))
    model = RobertaForSequenceClassification(RobertaConfig(**entry["config"]))
    model.load_state_dict(new)
    moved = attach(wrap(model), Full())
    heads = set(moved.head_names)
    delta = difference(*({n: state[n] for n in state if n not in heads} for state in (tuned, old)))
    moved.load({**delta, **{name: tuned[name] for name in heads}})
    values = {name: value for kind in moved.kinds() for name, value in kind.replaced().items()}
    expected = floating(entry["direct_apply_result"])
    same(values, expected)
    same({**add({n: new[n] for n in delta}, delta), **{name: tuned[name] for name in heads}}, expected)
    # The base keeps its own weights, and what is stored again is the delta itself.
    same({name: value for name, value in model.state_dict().items() if name in new}, new)
    same({name: moved.weights()[name] for name in delta}, delta)
    summed = floating(entry["old_init_as_run"])
    assert not any(torch.allclose(values[name], summed[name], atol=1e-2) for name in heads)


@pytest.mark.golden("recyclable", "delta_apply.json")
def test_the_published_sum_of_heads_is_reachable_as_plain_arithmetic(golden):
    entry = golden("recyclable", "delta_apply.json")
    old, tuned, new = (floating(entry[name]) for name in ("theta_old", "theta_tuned", "theta_new"))
    same(add(new, difference(tuned, old)), floating(entry["old_init_as_run"]))


@pytest.mark.golden("recyclable", "interpolation.json")
def test_path_of_whole_classifiers_as_recyclable_without_the_integer_buffer(golden):
    """The published path mixed the integer positions as floats and corrupted up to 12 of them."""
    entry = golden("recyclable", "interpolation.json")
    left, right = floating(entry["model1"]), floating(entry["model2"])
    assert INTEGER_BUFFER in entry["model1"]
    assert INTEGER_BUFFER not in left
    assert max(point["position_ids_changed"] for point in entry["points"]) == 12
    for point in entry["points"]:
        assert point["x"] == pytest.approx(entry["grid"][point["grid_index"]])
        same(lerp(left, right, point["x"]), floating(point["after_load"]))
    with pytest.raises(DeltatuneError, match="int64"):
        lerp(tensors(entry["model1"]), tensors(entry["model2"]), 0.5)


@pytest.mark.golden("modeconn", "interpolation.json")
@pytest.mark.parametrize("index", [0, 1, 2])
def test_path_of_deltas_as_modeconn(golden, index):
    entry = golden.case("modeconn", "interpolation.json", "cases")[index]
    first, second, before = (tensors(entry[name]) for name in ("endpoint_1", "endpoint_2", "model_before"))
    for point in entry["loaded"]:
        same({**before, **lerp(first, second, point["x"])}, tensors(point["state"]))
        same({**before, **combine([first, second], [1 - point["x"], point["x"]])}, tensors(point["state"]))


@pytest.mark.golden("recyclable", "cal_dist.json")
def test_distance_of_fine_tuned_models_without_integer_buffers_d8(golden):
    entry = golden.case("recyclable", "cal_dist.json", "finetune")
    left, right = (
        {name: value for name, value in floating(entry[end]).items() if "class" not in name} for end in ("theta1", "theta2")
    )
    expected = entry["independent_without_integer_buffers"]
    check_distance(left, right, expected["L2"], expected["n"], expected["average"], expected["cosine"])
    with_buffer = [tensors(entry[end]) for end in ("theta1", "theta2")]
    for measure in (distance, cosine):
        with pytest.raises(DeltatuneError, match="integer buffers"):
            measure(*with_buffer)


def check_distance(left, right, expected, count, average, similarity):
    assert distance(left, right)["all"] == pytest.approx(expected, rel=1e-5)
    assert norm(difference(left, right)) == pytest.approx(expected, rel=1e-5)
    assert length(left) == count
    assert distance(left, right)["all"] / sqrt(count) == pytest.approx(average, rel=1e-5)
    assert cosine(left, right) == pytest.approx(similarity, rel=1e-5, abs=1e-5)


@pytest.mark.golden("recyclable", "cal_dist.json")
def test_distance_of_adapters_alone_d9(golden):
    """The published adapter mode measured backbone, buffer, adapters and head together; grouped, all of them are seen."""
    entry = golden.case("recyclable", "cal_dist.json", "adapter")
    ends = [{**floating(entry[f"backbone{k}"]), **rename(floating(entry[f"adapter_ckpt{k}"]))} for k in (1, 2)]
    groups = distance(*ends, group=lambda name: "adapter" if "houlsby" in name else "rest")
    expected = entry["independent_adapter_keys_only"]
    assert groups["adapter"] == pytest.approx(expected["L2"], rel=1e-5)
    assert length({name: value for name, value in ends[0].items() if "houlsby" in name}) == expected["n"]
    whole = entry["as_run_whole_model"]
    assert sqrt(sum(value**2 for value in groups.values())) == pytest.approx(whole["L2"], rel=1e-5)
    assert length(ends[0]) == whole["n"] - len(entry["backbone1"][INTEGER_BUFFER][0])


@pytest.mark.golden("modeconn", "distance.json")
@pytest.mark.parametrize("index", [0, 1, 3])
def test_distance_as_modeconn(golden, index):
    entry = golden.case("modeconn", "distance.json", "cases")[index]
    left, right = tensors(entry["state_1"]), tensors(entry["state_2"])
    check_distance(left, right, entry["l2"], entry["num_parameters"], entry["root_mean_square"], entry["cosine_similarity"])


@pytest.mark.golden("modeconn", "distance.json")
def test_distance_counts_a_shared_embedding_once_not_three_times(golden):
    """The names that a T5 owns leave the two aliases out, so both files give the value of the file without them."""
    aliased, expected = golden.case("modeconn", "distance.json", "cases")[2:4]
    backbone = wrap(
        untie(T5ForConditionalGeneration(T5Config(vocab_size=4, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2)))
    )
    owned = {name for name, _ in base_tensors(backbone.model, backbone.sites)}
    assert owned == set(attach(backbone, Full()).parameters_by_name())
    assert owned.isdisjoint(aliased["ties"])
    left, right = (
        {name: value for name, value in tensors(aliased[end]).items() if name in owned} for end in ("state_1", "state_2")
    )
    assert set(left) == set(expected["state_1"])
    check_distance(
        left, right, expected["l2"], expected["num_parameters"], expected["root_mean_square"], expected["cosine_similarity"]
    )
    assert distance(left, right)["all"] < aliased["l2"]


def curve(golden):
    """A model whose base is zero, so that deltas are the parameters without rounding, and both ends and the controls."""
    archive, meta = golden("modeconn", "whole_model_curve.npz"), golden("modeconn", "whole_model_curve.json")
    model = untie(T5ForConditionalGeneration(T5Config(**{**T5, **meta["config"]})))
    named = dict(model.named_parameters())
    assert list(named) == meta["parameter_order"]
    assert [list(value.shape) for value in named.values()] == meta["shapes"]
    torch.nn.utils.vector_to_parameters(torch.zeros(archive["end_1"].size), model.parameters())
    assert len(archive["controls"]) == meta["bends"]
    parts = [unflatten(torch.tensor(point), named) for point in (archive["end_1"], archive["end_2"], *archive["controls"])]
    batch = {name: torch.tensor(archive[name]) for name in ("input_ids", "attention_mask", "labels", "decoder_attention_mask")}
    return attach(wrap(model), Full()), parts, batch, archive, meta


def aliases(state):
    return {f"{stack}.embed_tokens.weight": state["shared.weight"] for stack in ("encoder", "decoder")}


def loss_and_gradient(tuned, parts, batch, t):
    """Loss at the Bezier point phi(t), its gradient with respect to phi(t), and the coefficients of the controls."""
    degree = len(parts) - 1
    first, *inner, last = (comb(degree, i) * (1 - t) ** (degree - i) * t**i for i in range(degree + 1))
    # Both ends, then the controls, as the reference adds them: twelve blocks of width 4 amplify the rounding of another
    # order to 3e-5 of the gradient.
    coefficients = [first, last, *inner]
    point = {name: value.requires_grad_() for name, value in combine(parts, coefficients).items()}
    logits = forward_with(tuned, point)(batch)
    loss = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    loss.backward()
    return float(loss.detach()), flatten({name: value.grad for name, value in point.items()}), inner


@pytest.mark.golden("modeconn", "whole_model_curve.npz", "whole_model_curve.json")
def test_losses_and_gradients_along_a_whole_model_curve(golden):
    tuned, parts, batch, archive, meta = curve(golden)
    for entry in meta["losses"]:
        loss, gradient, inner = loss_and_gradient(tuned, parts, batch, entry["t"])
        assert loss == pytest.approx(entry["loss"], abs=1e-5)
        norms = [abs(c) * float(gradient.norm()) for c in inner]
        assert norms == pytest.approx(entry["gradient_norm_per_control"], rel=1e-5, abs=1e-5)
    draws = [loss_and_gradient(tuned, parts, batch, t) for t in meta["training_step"]["t"]]
    assert sum(loss for loss, _, _ in draws) == pytest.approx(meta["training_step"]["sum_of_losses"], abs=1e-5)
    step = sum(inner[0] * gradient for _, gradient, inner in draws)
    torch.testing.assert_close(step, torch.tensor(archive["step_gradient"][0]), atol=1e-5, rtol=1e-5)


@pytest.mark.golden("ensemble", "training_trajectory.npz")
@pytest.mark.parametrize("kind", ["adapter", "lora", "prefix"])
def test_short_training_runs_as_ensemble(golden, kind):
    archive = golden("ensemble", "training_trajectory.npz")
    meta = json.loads(str(archive["meta"]))
    size, base = meta["size"], under(archive, "base/")
    config = {"vocab_size": size["vocab"], "num_heads": size["heads"], "num_layers": size["layers"], "dropout_rate": 0.0}
    config |= {name: size[name] for name in ("d_model", "d_kv", "d_ff")} | {"relative_attention_num_buckets": 8}
    model = untie(T5ForConditionalGeneration(T5Config(**T5, **config)))
    model.load_state_dict({**base, **aliases(base)})
    start, end = (rename(under(archive, f"{when}/{kind}/")) for when in ("init", "final"))
    sizes = meta["delta"]
    delta = LoRA(rank=sizes["lora_r"], alpha=sizes["lora_alpha"]) if kind == "lora" else infer_config(start)
    tuned = attach(wrap(model), delta)
    tuned.load(start)
    parameters = list(tuned.parameters_by_name().values())
    rates = archive[f"lr/{kind}"]
    assert set(rates) == {meta["lr"]}  # the warm-up asked for never happened
    optimizer = Adafactor(parameters, lr=meta["lr"])
    for step in range(meta["steps"]):
        batch = under(archive, f"batch{step % 3}/")
        loss = cross_entropy(tuned(batch).flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
        assert float(loss.detach()) == pytest.approx(float(archive[f"losses/{kind}"][step]), abs=2e-4)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, meta["max_grad_norm"])
        optimizer.step()
    same(tuned.weights(), end, tolerance=2e-4)
    same({name: value for name, value in model.state_dict().items() if name in base}, base)


NUMBERS = st.floats(-2, 2, width=32)


@settings(max_examples=30, deadline=None)
@given(left=st.lists(NUMBERS, min_size=6, max_size=6), right=st.lists(NUMBERS, min_size=6, max_size=6), t=NUMBERS)
def test_algebra_of_small_deltas(left, right, t):
    a, b = ({"x.lora_A.weight": torch.tensor(values).reshape(2, 3)} for values in (left, right))
    same(lerp(a, b, 0.0), a, tolerance=0)
    same(lerp(a, b, 1.0), b, tolerance=0)
    same(add(b, difference(a, b)), a)
    same(lerp(a, b, t), combine([b, a], [t, 1 - t]))
    assert distance(a, b) == distance(b, a)
    assert distance(lerp(a, b, t), a)["all"] == pytest.approx(abs(t) * distance(a, b)["all"], abs=1e-5)
    for input_major in (False, True):
        same(unflatten(flatten(a, input_major), a, input_major), a, tolerance=0)
