"""The interval and the verdict: by hand, then on simulated experiments without any effect."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deltatune.core.claims import Claim, Control, Effects, Gate, interval, judge
from deltatune.core.claims.interval import as_table
from deltatune.core.claims.verdict import lies, refuted, rule
from deltatune.core.errors import DeltatuneError

EXPERIMENTS = 1000


def claim(**fields):
    given = {"controls": (Control("control", "it holds"),), "gates": (Gate("gate", "it is open"),), **fields}
    return Claim("C1", "toy", "it helps", "section 1", "a difference", lambda context, seed: Effects(0.0, {}), **given)


def verdict(values, resampled="seed", **fields):
    return judge(claim(**fields), interval(values, resampled), {"control": True}).verdict


def test_the_t_interval_is_that_of_the_textbook():
    # 1..5: mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776445; rounding adds 1/12 to the variance.
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt((2.5 + 1 / 12) / 5)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert found.n_units == 5


def test_rounding_adds_nothing_to_values_without_steps():
    values = np.random.default_rng(0).normal(size=19)
    half = 2.10092 * values.std(ddof=1) / math.sqrt(19)
    assert interval(values).half_width == pytest.approx(half, rel=1e-3)


def test_clusters_are_averaged_within_a_seed_when_seeds_are_the_unit():
    table = [[1.0, 3.0], [2.0, 4.0], [3.0, 8.0]]
    assert interval(table) == interval([2.0, 3.0, 5.5])


def test_clusters_as_the_unit_add_how_they_differ():
    table = np.array([[0.0, 10.0, 20.0], [1.0, 11.0, 21.0], [2.5, 12.5, 22.5]])
    narrow, wide = interval(table, "seed"), interval(table, "cluster")
    assert narrow.effect == wide.effect == pytest.approx(11.1667, abs=1e-4)
    assert wide.half_width > 5 * narrow.half_width
    assert wide.n_units == 3


def test_values_without_spread_have_no_interval_and_no_verdict():
    found = interval([0.2] * 5)
    assert (found.effect, found.low, found.high) == (pytest.approx(0.2), None, None)
    judgement = judge(claim(), found, {"control": True})
    assert (judgement.verdict, judgement.smallest) == ("inconclusive", None)
    assert "all seeds gave one value" in judgement.reason
    assert "one seed" in judge(claim(), interval([0.2]), {"control": True}).reason


def test_an_exact_value_is_its_own_interval_and_must_not_vary():
    found = interval([7.0, 7.0], exact=True)
    assert (found.low, found.high) == (7.0, 7.0)
    with pytest.raises(DeltatuneError, match="an exact value differs between seeds: 7 to 8"):
        interval([7.0, 8.0], exact=True)


def test_what_is_not_finite_is_refused():
    with pytest.raises(DeltatuneError, match="not a finite number"):
        interval([1.0, math.nan])


def test_seeds_with_other_clusters_are_refused():
    assert as_table([{"a": 1.0, "b": 2.0}, {"b": 4.0, "a": 3.0}]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    for effects in ([{"a": 1.0}, {"b": 1.0}], [{"a": 1.0}, 1.0], [1.0, {"a": 1.0}]):
        with pytest.raises(DeltatuneError, match="same clusters"):
            as_table(effects)


STEADY = [4.0, 5.1, 6.2, 4.9, 5.3]  # mean 5.1, half-width about 1


@pytest.mark.parametrize(
    ("side", "bound", "values", "expected"),
    [
        ("greater", 0.0, STEADY, "reproduced"),
        ("greater", 4.8, STEADY, "inconclusive"),
        ("greater", 0.0, [-value for value in STEADY], "contradicted"),
        ("greater", -2.0, [value - 6 for value in STEADY], "reproduced"),
        ("greater", -2.0, [value - 6.8 for value in STEADY], "inconclusive"),  # wholly below 0, as a bound of -2 allows
        ("less", 0.0, [-value for value in STEADY], "reproduced"),
        ("less", 10.0, STEADY, "reproduced"),
        ("less", 5.5, STEADY, "inconclusive"),  # above 0, which a bound of 5.5 allows
        ("less", 3.0, STEADY, "contradicted"),
        ("within", 7.0, STEADY, "reproduced"),
        ("within", 5.0, STEADY, "inconclusive"),
        ("within", 2.0, STEADY, "contradicted"),
    ],
)
def test_the_verdict_for_each_side(side, bound, values, expected):
    assert verdict(values, side=side, bound=bound) == expected


def test_the_smallest_effect_that_could_have_been_shown_is_told():
    noisy = [3.0, -2.0, 4.0, -1.0, 2.5]
    found = interval(noisy)
    judgement = judge(claim(bound=1.0), found, {"control": True})
    assert judgement.verdict == "inconclusive"
    assert judgement.smallest == pytest.approx(1.0 + found.half_width)
    assert f"{judgement.smallest:.3g}" in judgement.reason
    assert judge(claim(side="less"), found, {"control": True}).smallest == pytest.approx(-found.half_width)
    # An effect just above it, with this spread, would have been called reproduced.
    assert verdict([value - found.effect + judgement.smallest + 1e-6 for value in noisy], bound=1.0) == "reproduced"


def test_a_control_that_fails_takes_the_verdict_and_a_gate_voids_it():
    found = interval(STEADY)
    judgement = judge(claim(), found, {"control": False})
    assert judgement.verdict == "inconclusive"
    assert "control" in judgement.reason
    assert judge(claim(), found, {"control": True}, ["sources solve their tasks"]).verdict == "void"
    assert judge(claim(), interval([-v for v in STEADY]), {"control": False}).verdict == "contradicted"


def test_an_end_on_the_bound_does_not_lie_beyond_it():
    exact = interval([0.0], exact=True)
    assert not lies(exact, "greater", 0.0)
    assert lies(exact, "within", 0.0)
    assert not refuted(exact, "greater", 0.0)


def test_the_rule_says_what_was_declared():
    assert rule(claim(bound=2.0)).startswith("reproduced if the 95% interval over seeds lies above 2 and the controls hold")
    assert "contradicted if wholly above 10" in rule(claim(side="less", bound=10.0))


def _normal(random):
    return random.normal(size=5), "seed"


def _accuracies(random):
    """Differences of two accuracies on 200 examples, from the middle to the ceiling."""
    rate = random.choice([0.5, 0.8, 0.95, 0.98, 0.99, 0.995])
    return (random.binomial(200, rate, size=5) - random.binomial(200, rate, size=5)) / 200, "seed"


def _few_steps(random):
    """One example up, one down or none: the plain t interval calls 7 to 8% of these an effect."""
    return random.choice([-1, 0, 1], p=[0.4, 0.2, 0.4], size=8) / 200, "seed"


def _all_equal(random):
    return np.full(5, random.normal()), "seed"


def _almost_equal(random):
    return random.normal() * (1 + 1e-14 * random.normal(size=5)), "seed"


def _clustered(random, clusters=8):
    """Tasks on which it helps and tasks on which it harms, none of it particular to a seed."""
    return random.normal(size=(1, clusters)) + random.normal(size=(5, clusters)), "cluster"


def _many_clusters(random):
    return _clustered(random, 24)


def _seeds_and_clusters(random):
    return random.normal(size=(5, 1)) + random.normal(size=(1, 6)) + 0.5 * random.normal(size=(5, 6)), "cluster"


def _many_seeds(random):
    return random.normal(size=20), "seed"


@pytest.mark.parametrize(
    "draw",
    [_normal, _accuracies, _few_steps, _all_equal, _almost_equal, _clustered, _many_clusters, _seeds_and_clusters, _many_seeds],
)
def test_without_an_effect_a_verdict_is_rare(draw):
    random = np.random.default_rng(0)
    said = [verdict(*draw(random)) for _ in range(EXPERIMENTS)]
    assert said.count("reproduced") + said.count("contradicted") <= 0.06 * EXPERIMENTS


@pytest.mark.parametrize("draw", [_normal, _many_seeds])
def test_an_effect_is_found(draw):
    random = np.random.default_rng(1)
    assert [verdict(draw(random)[0] + 3.0) for _ in range(200)].count("reproduced") > 180


def test_a_claim_needs_controls_gates_and_seeds():
    with pytest.raises(DeltatuneError, match="toy/C1 has no control"):
        claim(controls=())
    with pytest.raises(DeltatuneError, match="toy/C1 has no gate"):
        claim(gates=())
    with pytest.raises(DeltatuneError, match="at least 5 seeds, got 4"):
        claim(tier="headline", seeds=4)
    with pytest.raises(DeltatuneError, match="within needs a bound of at least 0"):
        claim(side="within", bound=-1.0)


def test_what_was_not_declared_is_refused():
    good = Effects(1.0, {"control": 1.0}, {"gate": 1.0})
    claim().check(good)
    for effects, said in (
        (Effects(1.0, {}, {"gate": 1.0}), "control control is not measured"),
        (Effects(1.0, {"control": 1.0}, {"gate": 1.0, "other": 1.0}), "gate other is not declared"),
        (Effects(math.inf, {"control": 1.0}, {"gate": 1.0}), "not a finite number"),
        (Effects({}, {"control": 1.0}, {"gate": 1.0}), "measured nothing"),
    ):
        with pytest.raises(DeltatuneError, match=said):
            claim().check(effects)
