"""The claims: they are those of the specification, and each measures what it declares."""

from __future__ import annotations

import pytest

from deltatune.combos.claims import CLAIMS, experiments, measured, searching
from deltatune.core.claims.context import Context
from deltatune.core.claims.store import Store

BY_ID = {claim.id: claim for claim in CLAIMS}
EVERY = sorted({*measured.TASKS["few"], *measured.TASKS["full"], *measured.VARIED, *measured.NOISY})
SCORES = {"none": 52.0, "prompt": 60.0, "bias": 70.0, "adapter": 72.0}


def facts(context, seed, methods, task, data="few", template="manual", place="first", words=None, demos=None):
    """Runs as the paper would have them; `seed` and task add a little."""
    value = SCORES.get(methods, 75.0) / 100 + 0.001 * seed + 0.01 * EVERY.index(task)
    value -= 0.03 * (template == "none") * (1 if data == "few" else 0.1)
    value -= 0.05 * (data == "full" and "+" in methods)
    value += {None: 0.0, "own": 0.04, "mixed": 0.01}[None if demos is None else demos.get("labels", "own")]
    value += 0.02 * bool(demos and "encoder" in str(demos.get("vectors"))) - 0.03 * (words == {"random": "words"})
    train = value + 0.05 + 0.03 * ("+" in methods) - 0.04 * (methods == "prompt")
    stages = [{"scores": {"dev": {"value": value + 0.01 * number}}} for number in range(3)]
    return {"scores": {"dev": {"value": value}, "test": {"value": value}}, "found": {"train": {"value": train}}, "stages": stages}


def times(seed):
    numbers = {"full": (5, 9), "adapter": (7, 6), "bias": (5, 5), "prompt": (5, 4)}
    return [{"methods": name, "forward": f, "backward": b, "inference": f} for name, (f, b) in numbers.items()]


def test_the_claims_are_those_of_the_specification():
    assert {claim.id.partition("-")[0] for claim in CLAIMS} == {f"C{number}" for number in range(1, 12)}
    headlines = [claim.id for claim in CLAIMS if claim.tier == "headline"]
    assert headlines == ["C1", "C4", "C5", "C7", "C8", "C9"]


@pytest.mark.parametrize("name", [name for name in BY_ID if name != "C7"])
def test_a_claim_measures_what_it_declares_in_its_direction(name, tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "facts", facts)
    monkeypatch.setattr(experiments, "need_models", lambda: None)
    monkeypatch.setattr(experiments, "times", times)
    monkeypatch.setattr(searching, "need_models", lambda: None)
    monkeypatch.setattr(searching, "_words", lambda kind, task, seed: {kind: "words"})
    monkeypatch.setattr(searching, "_template", lambda task, seed: "*cls**sent_0**mask*")
    monkeypatch.setattr(searching, "vectors_of", lambda context, task, kind: kind)
    claim = BY_ID[name]
    effects = claim.run(Context(Store(tmp_path)), 3)
    claim.check(effects)
    if claim.side == "within":
        assert abs(effects.effect) <= claim.bound
    elif name not in ("C6", "C8"):
        assert (effects.effect > 0) == (claim.side == "greater")
    assert effects.records


def test_counts_are_exact(tmp_path):
    effects = BY_ID["C7"].run(Context(Store(tmp_path)), 0)
    BY_ID["C7"].check(effects)
    assert (effects.effect, effects.controls) == (0.0, {"union": 0.0})
    assert [row["trained"] for row in effects.records][:3] == [10_240, 323_673, 6_343_680]


def test_a_shared_run_is_the_published_method_at_world_size():
    plan = measured.plan(measured.TASKS["few"][0], "adapter>prompt", 4, asking=measured.Asking("none", "last"))
    config = plan.stage_config(2)
    assert config.train.optimizer.lr == measured.RATES["few"]["stage"]
    assert measured.plan("world/aspect-0", "bias", 4).stage_config(1).train.optimizer.lr == measured.RATES["few"]["bias"]
    assert config.task.template == "*cls**sent_0**sep+**mask*prompt*sep+*"
    assert (config.init_seed, config.task.sample_seed, config.train.data_seed) == (4, 4, 4)
