"""A grid, in one process or in several, gives what its runs give one by one."""

from __future__ import annotations

import pytest
import torch

from deltatune.core import checkpoint
from deltatune.core.files import read_json
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
