"""Runs of one process take base model and encoded examples over from each other, and come out as if each had loaded its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deltatune.core import loading
from deltatune.core.backbone import BackboneConfig
from deltatune.core.between_runs import keeping, lent
from deltatune.core.delta import BitFit, Full, Head, Houlsby, LoRA, Prefix, SoftPrompt
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.formats import HeadFormat
from deltatune.core.method import Method
from deltatune.core.optim import OptimizerConfig
from deltatune.core.train import TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.tuning import tune_to

KINDS = (LoRA(rank=2), Full(), SoftPrompt(length=2), Prefix(length=2, width=2), BitFit(), Houlsby(width=2), Head())


@pytest.fixture
def config(reviews):
    """The beginning of a run."""
    train = TrainConfig(OptimizerConfig(lr=1e-2), steps=3, batch_size=4, eval_every=2)
    base = BackboneConfig(str(reviews.with_name("model")), device="cpu")
    return TuneConfig(base, TaskChoice(str(reviews)), (LoRA(rank=2),), train)


@pytest.fixture
def counted(monkeypatch):
    """How many models were loaded, and examples encoded, one entry a call."""
    calls = {"loaded": [], "encoded": []}
    load, encode = loading.load_backbone, HeadFormat._encode
    monkeypatch.setattr(loading, "load_backbone", lambda *a, **k: (calls["loaded"].append(1), load(*a, **k))[1])
    monkeypatch.setattr(HeadFormat, "_encode", lambda self, rows: (calls["encoded"].append(len(rows)), encode(self, rows))[1])
    return calls


def run(config, path, method=None):
    tune_to(config, path, {"command": "a test", "tag": ""}, "", progress=False, method=method)
    return read_json(path / "delta/deltatune.json")["tensors_sha256"], read_json(path / "run.json")["scores"]


def test_runs_are_what_they_are_alone_with_one_model_and_each_example_encoded_once(config, counted, tmp_path):
    configs = [replace(config, deltas=(kind,)) for kind in KINDS]
    alone = [run(own, tmp_path / "alone" / str(number)) for number, own in enumerate(configs)]
    assert len(counted["loaded"]) == len(KINDS)
    for calls in counted.values():
        calls.clear()
    with keeping():
        assert [run(own, tmp_path / "many" / str(number)) for number, own in enumerate(configs)] == alone
        # A soft prompt leaves less room for the text, so that its examples are encoded for themselves.
        assert (len(counted["loaded"]), sum(counted["encoded"])) == (1, 2 * (24 + 12 + 13))
        run(replace(config, backbone=replace(config.backbone, precision="bf16")), tmp_path / "other")
        assert len(counted["loaded"]) == 2
    run(config, tmp_path / "after")
    assert len(counted["loaded"]) == 3


def test_a_run_that_fails_or_was_finished_leaves_nothing_in_the_model(config, counted, tmp_path):
    class Failing(Method):
        def loss(self, tuned, form, batch):
            raise DeltatuneError("gone")

    alone = run(config, tmp_path / "alone")
    with keeping():
        run(config, tmp_path / "first")
        with pytest.raises(DeltatuneError, match="gone"):
            run(replace(config, init_seed=1), tmp_path / "failing", Failing())
        assert run(config, tmp_path / "second") == alone
        assert run(config, tmp_path / "second") == alone
    assert len(counted["loaded"]) == 3


def test_a_model_in_use_is_lent_to_nobody_else(config):
    with keeping():
        with lent() as load:
            first = load(config.backbone, 2)
            with lent() as other:
                assert other(config.backbone, 2) is not first
        with lent() as load:
            assert load(config.backbone, 2) is first
