"""The scripts that measure subspaces: what they plan, and the tables of records made by hand."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_plan_of_real_tasks(script, tmp_path, capsys):
    script("subspace").main(tmp_path, tmp_path / "out", model="encoder", seeds=3, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("18 steps, 0 of them begun or finished; about ")
    assert [line.split()[1] for line in lines[1:7]] == [
        "make-init", "train-delta", "approximate", "optimize", "approximate", "optimize",
    ]  # fmt: skip
    assert len(lines) == 19
    assert not (tmp_path / "out").exists()


def _record(kind, seed, value, relative, source="lora", target="lora"):
    return {
        "setting": "one task", "k": 4, "seed": seed, "task": "mpqa", "kind": kind, "source": source, "target": target,
        "metric": "accuracy", "value": value, "n": 10, "original": 0.8, "chance": 0.5, "relative": relative,
        "corrected": (value - 0.5) / 0.3 * 100, "shared": 0.25, "values": 30, "head_values": 20, "base": "b",
    }  # fmt: skip


def test_the_table_of_real_tasks(script):
    found = [
        _record("optimization", 0, 0.60, 75.0),
        _record("optimization", 0, 0.80, 100.0, "prefix", "prefix"),
        _record("optimization", 1, 0.72, 90.0),
        _record("transfer", 0, 0.64, 80.0, "lora", "prefix"),
        _record("zero", 0, 0.56, 70.0, None),
    ]
    lines = script("subspace").rows(found).splitlines()
    # Seed 0 has the mean 70, seed 1 has 72: mean 71, standard deviation sqrt(2).
    assert lines[2] == (
        "| one task, k = 4 | mpqa | optimization | 71.0 (1.4) | 80.0 (0.0) | 50.0 (0.0) | 88.8 (1.8) | 70.0 (4.7) | 2 |"
    )
    assert lines[3] == "| one task, k = 4 | mpqa | transfer | 64.0 | 80.0 | 50.0 | 80.0 | 46.7 | 1 |"
    assert lines[4] == "| one task, k = 4 | mpqa | control: initial values | 56.0 | 80.0 | 50.0 | 70.0 | 20.0 | 1 |"
    assert lines[8] == "| one task, k = 4 | mpqa | lora | 82.5 (10.6) | 80.0 |"
    assert lines[9] == "| one task, k = 4 | mpqa | prefix |  | 100.0 |"
    assert lines[11].startswith("Each delta has 30 values, 20 of them the head's")
    assert lines[12] == "25.0% of the test texts of mpqa are also training texts of the source tasks (one task)."


def test_the_table_of_speed(script):
    arms = script("subspace_speed").ARMS
    rates = {arms[0]: (2.0, 1.0, 3.0), arms[1]: (4.0, 5.0, 6.0)}
    found = [
        {"part": "update", "tasks": 1, "k": 4, "arm": arm, "round": number, "rate": rate}
        for arm, own in rates.items()
        for number, rate in enumerate(own)
    ]
    # 1,000 bytes for 100 values more: 10 bytes each, so 16 GB are 533,333,333 values of each of three deltas.
    found += [
        {"part": "memory", "dtype": "fp32", "size": 1, "k": 1, "values": v, "bytes": b} for v, b in ((50, 700), (150, 1700))
    ]
    found += [{"part": "processes", "count": count, "rate": rate} for count, rate in ((1, 2.0), (2, 3.0))]
    lines = script("subspace_speed").rows(found).splitlines()
    assert lines[2] == "| 1 | 4 | straightforward | 2.00 | 1.00 | 3 |"
    assert lines[3] == "| 1 | 4 | deltatune | 5.00 | 2.50 | 3 |"
    # 2 D k + k^2 + 2 k with D = 1,105,920: 533,107,921 for k = 241, 535,320,246 for k = 242.
    assert lines[7] == "| fp32 | 10.0 | 241 | 2,666,615 |"
    assert lines[9] == "Two processes of one thread beside one: 1.50 times the updates a second (3.00 and 2.00)."
    script("subspace_speed").main(Path("none"), Path("none"), Path("none"), model="encoder", dry_run=True)


@pytest.mark.parametrize("count", [1, 2])
def test_both_forms_compute_one_loss(script, count):
    from deltatune.core.data import load_task
    from deltatune.subspace.projections import named

    forms = script("subspace_forms")
    example = ROOT / "examples/reviews"
    bench = forms.build(str(example / "model"), [load_task(example / "task.yaml")] * count, 3)
    plain = forms.Straightforward(bench.ours, str(example / "model"))
    bench.ours.train(False)
    plain.train(False)
    tensors = named(bench.ours.space.projections)
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    batch = bench.source(0).micro_batches(0)[0].batch
    gradients = []
    for form in (bench.ours, plain):
        value = form.loss(batch)
        gradients.append((value.detach(), *torch.autograd.grad(value, list(tensors.values()))))
    for ours, other in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-4)
