"""Alignment of symmetries, planes, gains and confidence."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core.delta import LoRA
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import distance
from deltatune.modeconn import bookkeeping, curves, datamap
from deltatune.modeconn.alignment import aligned, product_ends
from deltatune.modeconn.confidence import among
from deltatune.modeconn.gains import gain
from deltatune.modeconn.geometry import plane
from deltatune.modeconn.mixing import mixed
from deltatune.modeconn.profiles import better, line_segments, profile


def adapter(seed, width=6, d=5, bias=True):
    draw = torch.Generator().manual_seed(seed)
    parts = {"down.weight": (width, d), "down.bias": (width,), "up.weight": (d, width), "up.bias": (d,)}
    return {f"x.houlsby_{n}": torch.randn(s, generator=draw) for n, s in parts.items() if bias or n.endswith("weight")}


def adapter_output(weights, h):
    hidden = torch.nn.functional.silu(h @ weights["x.houlsby_down.weight"].T + weights.get("x.houlsby_down.bias", 0))
    return h + hidden @ weights["x.houlsby_up.weight"].T + weights.get("x.houlsby_up.bias", 0)


@pytest.mark.parametrize("bias", [True, False])
def test_an_adapter_with_its_units_shuffled_comes_back(bias):
    left, order = adapter(0, bias=bias), torch.randperm(6, generator=torch.Generator().manual_seed(1))
    right = dict(left)
    right["x.houlsby_down.weight"] = left["x.houlsby_down.weight"][order]
    right["x.houlsby_up.weight"] = left["x.houlsby_up.weight"][:, order]
    if bias:
        right["x.houlsby_down.bias"] = left["x.houlsby_down.bias"][order]
    assert distance(left, right)["all"] > 1
    assert distance(left, aligned(left, right))["all"] == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_alignment_keeps_the_function_and_never_moves_away(seed):
    left, right, h = adapter(seed), adapter(seed + 1), torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))
    found = aligned(left, right)
    torch.testing.assert_close(adapter_output(found, h), adapter_output(right, h), atol=1e-5, rtol=1e-5)
    assert distance(left, found)["all"] <= distance(left, right)["all"] + 1e-6
    one, other = lora(seed), lora(seed + 1)
    found = aligned(one, other)
    torch.testing.assert_close(update(found), update(other), atol=1e-3, rtol=1e-3)
    assert distance(one, found)["all"] <= distance(one, other)["all"] + 1e-6


def lora(seed, rank=3):
    draw = torch.Generator().manual_seed(seed)
    return {"q.lora_A.weight": torch.randn(rank, 7, generator=draw), "q.lora_B.weight": torch.randn(5, rank, generator=draw)}


def update(weights):
    return weights["q.lora_B.weight"] @ weights["q.lora_A.weight"]


@pytest.mark.parametrize("kind", ["orthogonal", "invertible"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lora_under_another_choice_of_factors_comes_back(kind, seed):
    left = lora(seed)
    change = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed + 9)).double()
    if kind == "orthogonal":
        change = torch.linalg.qr(change)[0]
    right = {
        "q.lora_A.weight": (change @ left["q.lora_A.weight"].double()).float(),
        "q.lora_B.weight": (left["q.lora_B.weight"].double() @ torch.linalg.inv(change)).float(),
    }
    assert distance(left, right)["all"] > 0.1
    assert distance(left, aligned(left, right))["all"] < 1e-5 * max(1.0, float(torch.linalg.cond(change)))


def test_untrained_lora_is_left_alone_where_nothing_is_nearer():
    left, right = lora(0), lora(1)
    for end in (left, right):
        end["q.lora_B.weight"] = torch.zeros(5, 3)
    assert distance(left, aligned(left, right))["all"] <= distance(left, right)["all"]
    with pytest.raises(DeltatuneError, match="--align"):
        aligned({"w": torch.zeros(2)}, {"w": torch.ones(2)})


def test_the_line_between_products_interpolates_the_update():
    left, right = lora(0), lora(1)
    config, one, other = product_ends(left, right, LoRA(rank=3, alpha=12))
    assert (config.rank, config.alpha / config.rank) == (6, 4)
    torch.testing.assert_close(update(one), update(left))
    torch.testing.assert_close(update(other), update(right))
    point = {name: 0.75 * one[name] + 0.25 * other[name] for name in one}
    torch.testing.assert_close(update(point), 0.75 * update(left) + 0.25 * update(right))
    with pytest.raises(DeltatuneError, match="--product"):
        product_ends({"w": torch.zeros(2)}, {"w": torch.ones(2)}, LoRA())


def test_a_plane_holds_its_three_points_and_measures_distances():
    points = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).double()
    steps = points - points[0]
    flat = plane((steps @ steps.T).tolist())
    for number, corner in enumerate(flat.corners):
        assert flat.coefficients(*corner) == pytest.approx([float(number == i) for i in range(3)], abs=1e-9)
    spots = flat.grid(4, 0.25)
    assert len(spots) == 16
    places = [sum(c * p for c, p in zip(flat.coefficients(*spot), points, strict=True)) for spot in spots]
    for i in (0, 5):
        for j in (3, 14):
            assert math.dist(spots[i], spots[j]) == pytest.approx(float((places[i] - places[j]).norm()))
    with pytest.raises(DeltatuneError, match="one line"):
        plane([[0, 0, 0], [0, 1, 2], [0, 2, 4]])


def test_statistics_by_hand():
    found = profile([0.0, 0.5, 1.0], [1.0, 3.0, 2.0], line_segments([0.0, 0.5, 1.0], 4.0))
    assert (found.barrier, found.argmax, found.over_worse_end, found.over_mean_of_ends) == (1.5, 0.5, 1.0, 1.5)
    assert (found.relative, found.drop, found.area, found.length, found.arc_length_mean) == (1.0, 0.0, 0.75, 4.0, 2.25)
    assert better([0.0, 0.5, 1.0], [0.5, 0.6, 0.6]) == []
    assert better([0.0, 0.5, 1.0], [0.5, 0.7, 0.6]) == [0.5]
    with pytest.raises(DeltatuneError, match="from 2 to 1001"):
        bookkeeping.places(1)
    with pytest.raises(DeltatuneError, match="at least one bend"):
        curves.curve("bezier", 0)


def test_gains_by_hand():
    found = gain([1, 1, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0])
    assert (found.mean, found.wins, found.losses, found.n) == (0.5, 4, 1, 6)
    assert found.p == pytest.approx(2 * (1 + 5) / 32)
    assert gain([1.0], [1.0]).p == 1


def test_the_fates_of_examples():
    lists = bookkeeping.transitions([[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]])
    found = bookkeeping.fates(lists)
    assert (found.forgotten, found.remembered) == ([[0], []], [[1], []])
    assert (found.always_right, found.never_right) == ([2], [3])


def test_a_map_and_a_path_of_other_examples_are_refused(tmp_path):
    course = datamap.Course((1.0,), (0.5,))
    with pytest.raises(DeltatuneError, match="one train file"):
        datamap.combine({"0": course}, {"0.0": {"zero_list": [1], "one_list": []}})
    (tmp_path / "cartography.json").write_text('{"0": {"acc": [1, 0], "confidence": [0.5]}}')
    with pytest.raises(DeltatuneError, match="same number"):
        datamap.read_map(tmp_path)


def test_confidence_among_label_words(golden):
    """The published confidence restricted to the letters a, b and c at the third position of the model's own answer."""
    found = golden.case("modeconn", "tiny_t5.json", "results")["confidence"]
    logits, letters = torch.tensor(found["third_step_logits_abc"]), list(found["letter_ids"])
    gold = torch.tensor([letters.index(letter) for letter in found["gold"]])
    assert among(logits, torch.arange(3), gold).tolist() == pytest.approx(found["confidence"], abs=1e-5)


def test_a_mixture_at_great_weights_is_one_of_its_ends():
    left, right = {"a": torch.ones(2), "b": torch.ones(2)}, {"a": torch.zeros(2), "b": torch.zeros(2)}
    found = mixed(left, right, torch.tensor([50.0, -50.0]), lambda name: "ab".index(name))
    assert torch.equal(found["a"], left["a"])
    torch.testing.assert_close(found["b"], right["b"])
