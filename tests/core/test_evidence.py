"""What advice was worth afterwards: hand-computed."""

from __future__ import annotations

import pytest

from deltatune.core.evidence import Truth, judge


def test_policies_are_judged_by_what_became_known_afterwards():
    truths = [
        {"keep": Truth(0.80, 0.0), "retune": Truth(0.90, 100.0)},
        {"keep": Truth(0.89, 0.0), "retune": Truth(0.90, 200.0)},
        {"keep": Truth(0.70, 0.0), "retune": Truth(0.50, 100.0)},
    ]
    advice, always = judge({"advice": ["retune", "keep", "keep"], "always": ["retune"] * 3}, truths, [0.02, 0.02, 0.02])
    assert advice["agreement"] == 1.0  # 0.89 is as good as 0.90
    assert advice["regret"] == pytest.approx(0.01 / 3)
    assert advice["worst"] == pytest.approx(0.01)
    assert advice["cost"] == pytest.approx(100 / 3)
    assert always["agreement"] == pytest.approx(2 / 3)
    assert always["regret"] == pytest.approx(0.2 / 3)
    assert (always["worst"], always["cost"], always["cases"]) == (pytest.approx(0.2), pytest.approx(400 / 3), 3)
