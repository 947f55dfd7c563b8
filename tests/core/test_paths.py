"""Paths: points by hand, and a model that settles between its ends."""

from __future__ import annotations

import pytest
import torch

from deltatune.core import paths
from deltatune.core.delta import BitFit, Full, Houlsby, attach
from deltatune.core.errors import DeltatuneError

NAMES = ("bert-head", "roberta-prompt", "t5-text", "t5v11-text")
KINDS = {"full": (Full(),), "adapter": (Houlsby(width=2),), "both": (Full(), Houlsby(width=2)), "bias": (BitFit(),)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_settled_model_has_the_ends_that_a_model_loads(tiny, batch_for, stir, name, kind):
    plain, settled = (attach(tiny(name), *KINDS[kind]) for _ in range(2))
    deltas = [stir(plain, seed) for seed in (1, 2)]
    given = [dict(weights) for weights in deltas]
    ends = paths.settle(settled, given)
    assert given == [{}, {}]
    for weights, end in zip(deltas, ends, strict=True):
        plain.load(weights)
        expected = paths.end_of(plain).deltas
        assert list(end.deltas) == list(expected)
        assert all(torch.equal(end.deltas[key], value) for key, value in expected.items())
    batch = batch_for(name)
    [*_] = paths.walk(settled, ends, [0.0, 0.25], dict, restore=False)
    plain.load({key: 0.75 * deltas[0][key] + 0.25 * deltas[1][key] for key in deltas[0]})
    with torch.no_grad():
        torch.testing.assert_close(settled(batch), plain(batch), atol=1e-5, rtol=1e-5)


def test_a_settled_model_gives_no_differences(tiny, stir):
    tuned = attach(tiny("bert-head"), Full())
    paths.settle(tuned, [])
    with pytest.raises(RuntimeError, match="size"):
        tuned.weights()


def test_settling_needs_the_attached_names(tiny):
    with pytest.raises(DeltatuneError, match="weights of an end do not match"):
        paths.settle(attach(tiny("bert-head"), Houlsby(width=2)), [{"other": torch.zeros(1)}])


def test_a_point_is_the_weighted_sum_and_the_ends_are_exact(tiny, stir):
    tuned = attach(tiny("bert-head"), Houlsby(width=2))
    before = tuned.weights()
    ends = [paths.End(stir(tuned, seed)) for seed in (1, 2)]
    tuned.load(before)
    name = next(iter(before))
    found = {}
    for point in paths.walk(tuned, ends, [0.0, 0.3, 1.0], dict):
        found[point["x"]] = tuned.weights()[name]
    one, other = (end.deltas[name] for end in ends)
    assert torch.equal(found[0.0], one)
    assert torch.equal(found[1.0], other)
    torch.testing.assert_close(found[0.3], 0.7 * one + 0.3 * other)
    assert all(torch.equal(value, before[key]) for key, value in tuned.weights().items())
