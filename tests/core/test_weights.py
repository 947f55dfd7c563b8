"""Arithmetic on deltas: values by hand, then what must hold for any values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import (
    Row,
    add,
    combine,
    cosine,
    difference,
    distance,
    flatten,
    layout,
    lerp,
    norm,
    unflatten,
    weighted_sum,
)

ONE = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[3.0], [-4.0]])}
TWO = {"a": torch.tensor([[1.0], [0.0]]), "b": torch.tensor([5.0, -2.0])}  # the same names in another order


def equal(left, right):
    return list(left) == list(right) and all(torch.equal(left[n], right[n]) and left[n].dtype == right[n].dtype for n in left)


def test_combine_by_hand():
    result = combine([ONE, TWO], [2.0, -1.0])
    assert list(result) == ["b", "a"]  # the order is that of the first part
    assert result["b"].tolist() == [-3.0, 6.0]
    assert result["a"].tolist() == [[5.0], [-8.0]]


def test_lerp_difference_and_add_by_hand():
    assert lerp(ONE, TWO, 0.25)["b"].tolist() == [2.0, 1.0]
    assert difference(ONE, TWO)["a"].tolist() == [[2.0], [-4.0]]
    base = {"x": torch.tensor([7.0]), **ONE}
    moved = add(base, {"b": torch.tensor([10.0, 20.0])}, scale=0.5)
    assert list(moved) == ["x", "b", "a"]
    assert moved["b"].tolist() == [6.0, 12.0]
    assert moved["a"] is base["a"]
    assert moved["x"] is base["x"]


def test_distance_norm_and_cosine_by_hand():
    # squares: b 16 + 16, a 4 + 16
    assert distance(ONE, TWO) == {"all": pytest.approx(math.sqrt(52), abs=1e-15)}
    grouped = distance(ONE, TWO, group=lambda name: f"group of {name}")
    assert list(grouped) == ["group of b", "group of a"]
    assert grouped["group of b"] == pytest.approx(math.sqrt(32), abs=1e-15)
    assert grouped["group of a"] == pytest.approx(math.sqrt(20), abs=1e-15)
    assert norm(ONE) == pytest.approx(math.sqrt(30), abs=1e-15)
    assert cosine(ONE, TWO) == pytest.approx((1 * 5 + 2 * -2 + 3 * 1) / math.sqrt(30 * 30), abs=1e-15)
    assert cosine(ONE, combine([ONE], [-3.0])) == pytest.approx(-1.0, abs=1e-12)
    assert math.isnan(cosine(ONE, combine([ONE], [0.0])))


def test_distance_accumulates_in_float64():
    left = {"w": torch.full((3,), 1e-30)}
    assert distance(left, {"w": torch.zeros(3)})["all"] == pytest.approx(math.sqrt(3) * 1e-30, rel=1e-6)


def test_nothing_is_changed_in_place():
    left, right = ({n: t.clone() for n, t in w.items()} for w in (ONE, TWO))
    for result in (combine([left, right], [1.0, 0.0]), combine([left], [1.0]), lerp(left, right, 0.0), difference(left, right)):
        for tensor in result.values():
            tensor.add_(1.0)
    assert equal(left, ONE)
    assert equal(right, TWO)


def test_names_that_do_not_match():
    left = {name: torch.zeros(1) for name in "abcdef"}
    right = {name: torch.zeros(1) for name in "fghij"}
    expected = r"missing a, b, c \(5 in all\), extra g, h, i \(4 in all\); take deltas of one kind"
    for call in (lambda: combine([left, right], [1, 1]), lambda: lerp(left, right, 0.5), lambda: distance(left, right)):
        with pytest.raises(DeltatuneError, match=expected):
            call()
    with pytest.raises(DeltatuneError, match=r"missing none \(0 in all\), extra g"):
        cosine({"f": torch.zeros(1)}, right)
    with pytest.raises(DeltatuneError, match=r"delta and base do not match: missing z"):
        add(left, {"z": torch.zeros(1)})


def test_shapes_that_do_not_match():
    with pytest.raises(DeltatuneError, match=r"b is \(2,\) here and \(2, 1\) there"):
        combine([ONE, {**TWO, "b": torch.zeros(2, 1)}], [1.0, 1.0])
    with pytest.raises(DeltatuneError, match=r"b is \(1,\) here and \(2,\) there"):  # never broadcast
        add(ONE, {"b": torch.zeros(1)})


def test_counts_and_kinds_that_do_not_match():
    with pytest.raises(DeltatuneError, match="2 weights and 1 coefficients"):
        combine([ONE, TWO], [1.0])
    with pytest.raises(DeltatuneError, match="0 weights and 0 coefficients"):
        combine([], [])
    with pytest.raises(DeltatuneError, match="nothing to add"):
        weighted_sum([], [])
    with pytest.raises(DeltatuneError, match=r"torch.int64 tensors is not defined"):
        combine([{"ids": torch.arange(3)}], [1.0])
    with pytest.raises(DeltatuneError, match=r"shape \(3,\) and the layout \(4,\)"):
        unflatten(torch.zeros(3), ONE)
    with pytest.raises(DeltatuneError, match=r"shape \(1, 4\) and the layout \(4,\)"):
        unflatten(torch.zeros(1, 4), ONE)


def test_bfloat16_is_summed_in_float32():
    # 1 + 64 * 2^-9: each term alone is lost beside 1 in bfloat16 (8 significant bits), their sum is not.
    small = {"w": torch.tensor([2.0**-9], dtype=torch.bfloat16)}
    parts = [{"w": torch.ones(1, dtype=torch.bfloat16)}] + [small] * 64
    result = combine(parts, [1.0] * 65)["w"]
    assert result.dtype == torch.bfloat16
    assert result.item() == 1.125
    assert weighted_sum([p["w"] for p in parts], [1.0] * 65).dtype == torch.float32
    naive = parts[0]["w"]
    for part in parts[1:]:
        naive = naive + part["w"]
    assert naive.item() == 1.0
    mean = combine([small] * 3, [1 / 3] * 3)["w"]
    assert mean.item() == small["w"].item()


def test_float64_stays_float64():
    left = {"w": torch.tensor([1.0 + 2.0**-40], dtype=torch.float64)}
    assert combine([left, left], [1.0, 1.0])["w"].item() == 2.0 + 2.0**-39
    assert weighted_sum([torch.ones(1), left["w"]], [1.0, 1.0]).dtype == torch.float64


def test_layout_by_hand():
    weights = {"x.lora_A.weight": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "x.bias": torch.tensor([7.0, 8.0])}
    assert layout(weights) == [Row("x.lora_A.weight", (2, 3), 0, 6, False), Row("x.bias", (2,), 6, 8, False)]
    assert flatten(weights).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert layout(weights, input_major=True)[0].transposed
    assert flatten(weights, input_major=True).tolist() == [1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 7.0, 8.0]
    assert flatten({}).shape == (0,)
    assert unflatten(torch.zeros(0), {}) == {}


def test_flatten_is_differentiable():
    weights = {name: tensor.clone().requires_grad_() for name, tensor in ONE.items()}
    (flatten(weights) * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert weights["b"].grad.tolist() == [1.0, 10.0]
    assert weights["a"].grad.tolist() == [[100.0], [1000.0]]
    vector = torch.zeros(4, requires_grad=True)
    (unflatten(vector, ONE)["a"] * torch.tensor([[2.0], [3.0]])).sum().backward()
    assert vector.grad.tolist() == [0.0, 0.0, 2.0, 3.0]


NAMES = ("q.lora_A.weight", "q.lora_B.weight", "ffn.houlsby_up.weight", "norm.bias", "embedding.soft_prompt")
FINITE = st.floats(-1e3, 1e3, width=32)


@st.composite
def weights_of(draw, count: int, dtype: torch.dtype = torch.float32):
    """`count` weights with the same names and shapes."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    shapes = {
        n: (draw(st.integers(1, 3)), draw(st.integers(1, 4))) if n.endswith("weight") else (draw(st.integers(1, 5)),)
        for n in names
    }

    def tensor(shape: tuple[int, ...]) -> Tensor:
        n = math.prod(shape)
        return torch.tensor(draw(st.lists(FINITE, min_size=n, max_size=n)), dtype=dtype).reshape(shape)

    return [{name: tensor(shape) for name, shape in shapes.items()} for _ in range(count)]


@settings(max_examples=30, deadline=None)
@given(weights_of(1), st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
def test_one_part_once_is_itself(parts, dtype):
    part = {name: tensor.to(dtype) for name, tensor in parts[0].items()}
    assert equal(combine([part], [1.0]), part)
    assert distance(part, combine([part], [1.0])) == {"all": 0.0}


@settings(max_examples=30, deadline=None)
@given(weights_of(2))
def test_both_ends_of_a_line_are_exact(parts):
    left, right = parts
    assert equal(lerp(left, right, 0.0), left)
    assert equal(lerp(left, right, 1.0), right)


@settings(max_examples=30, deadline=None)
@given(weights_of(2), st.floats(-2, 2), st.floats(-2, 2))
def test_combine_is_linear(parts, s, t):
    left, right = parts
    together = combine([left, right], [s, t])
    apart = combine([combine([left], [s]), combine([right], [t])], [1.0, 1.0])
    doubled = combine([left, right], [2 * s, 2 * t])
    for name, tensor in together.items():
        torch.testing.assert_close(apart[name], tensor, atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(doubled[name], 2 * tensor, atol=1e-3, rtol=1e-5)
    swapped = combine([right, left], [t, s])
    assert equal(swapped, together)  # two-term sums commute exactly


@settings(max_examples=30, deadline=None)
@given(weights_of(2))
def test_adding_the_difference_leads_back(parts):
    base, tuned = parts
    back = add(base, difference(tuned, base))
    for name, tensor in tuned.items():
        torch.testing.assert_close(back[name], tensor, atol=2e-4, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(weights_of(1), st.booleans(), st.randoms(use_true_random=False))
def test_flatten_and_unflatten_are_inverse(parts, input_major, random):
    [part] = parts
    vector = flatten(part, input_major)
    assert vector.dtype == torch.float32
    assert vector.shape == (sum(t.numel() for t in part.values()),)
    assert equal(unflatten(vector, part, input_major), part)
    other = torch.tensor([random.uniform(-1, 1) for _ in range(vector.numel())])
    assert torch.equal(flatten(unflatten(other, part, input_major), input_major), other)
    rows = layout(part, input_major)
    assert [row.start for row in rows] == [0, *(row.end for row in rows[:-1])]


@settings(max_examples=30, deadline=None)
@given(weights_of(3))
def test_distance_is_a_metric(parts):
    a, b, c = parts
    between = {key: distance(*pair)["all"] for key, pair in {"ab": (a, b), "ba": (b, a), "bc": (b, c), "ac": (a, c)}.items()}
    assert between["ab"] == between["ba"]
    assert between["ac"] <= between["ab"] + between["bc"] + 1e-9
    assert distance(a, a)["all"] == 0.0
    per_name = distance(a, b, group=str)
    assert math.sqrt(sum(value**2 for value in per_name.values())) == pytest.approx(between["ab"], rel=1e-12, abs=1e-12)
    assert norm(difference(a, b)) == pytest.approx(between["ab"], rel=1e-5, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(weights_of(2), st.floats(0.1, 10))
def test_cosine_does_not_see_length(parts, scale):
    left, right = parts
    angle = cosine(left, right)
    if math.isnan(angle):
        assert norm(left) * norm(right) == 0
    else:
        assert -1 - 1e-12 <= angle <= 1 + 1e-12
        assert cosine(right, left) == pytest.approx(angle, abs=1e-12)
        assert cosine(combine([left], [scale]), right) == pytest.approx(angle, abs=1e-5)
