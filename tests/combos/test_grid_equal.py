"""What is shared changes nothing: a grid gives what its runs give one by one, a sequence the same with a stage taken over."""

from __future__ import annotations

import pytest
import torch

from deltatune.combos import Combination, Plan, carry_out
from deltatune.core import BackboneConfig, TaskChoice, TrainConfig, TuneConfig, checkpoint
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.optim import OptimizerConfig
from deltatune.core.pool import cores


@pytest.mark.parametrize(("form", "workers"), [("head", 1), ("prompt", 2)])
def test_a_grid_is_its_runs_one_by_one(few, command, tmp_path, form, workers):
    if workers > cores():
        pytest.skip(f"{cores()} core is here, and grid refuses {workers} workers")
    common = [*few, "--train.eval_every", 2, "--form", form]
    words = ["grid", *common, "--methods", "[prompt+adapter, lora]", "--templates", "[manual]", "--rates", "[1e-2]"]
    command(*words, "--seeds", "[3, 4]", "--workers", workers, "--out_dir", tmp_path / "grid")
    for methods, seed in (("prompt+adapter", 4), ("lora", 3)):
        own, there = tmp_path / f"{methods}-{seed}", tmp_path / "grid/runs" / f"manual_{methods}_lr-0.01_seed-{seed}"
        command("run", *common, "--methods", methods, "--lr", "1e-2", "--seed", seed, "--out_dir", own)
        ours, others = (checkpoint.read(path).weights for path in (own, there))
        assert ours.keys() == others.keys()
        assert all(torch.allclose(value, others[name], rtol=1e-5, atol=1e-7) for name, value in ours.items())
        left, right = (read_json(path / "run.json")["scores"]["test"] for path in (own, there))
        assert left["value"] == right["value"]
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)


def test_an_order_that_takes_over_the_first_stage_of_another_ends_the_same(task, tmp_path):
    model, choice = BackboneConfig(str(task.with_name("model")), form="prompt", device="cpu"), TaskChoice(str(task))
    config = TuneConfig(model, choice, (), TrainConfig(OptimizerConfig(lr=1e-2), steps=2, eval_every=1, batch_size=4))

    def order(text, name, begun=None):
        path = tmp_path / name
        carry_out(Plan(Combination.parse(text), config), path, {}, "", progress=False, begun=begun)
        return checkpoint.read(path).weights

    order("bias>adapter", "first")
    alone, shared = order("bias>lora", "alone"), order("bias>lora", "shared", tmp_path / "first/1-bias")
    assert all(torch.equal(value, shared[name]) for name, value in alone.items())
    assert read_json(tmp_path / "shared/1-bias/run.json") == read_json(tmp_path / "first/1-bias/run.json")
    with pytest.raises(DeltatuneError, match="another run"):  # a soft prompt is in the model from the first stage on
        order("bias>prompt", "wrong", tmp_path / "first/1-bias")
