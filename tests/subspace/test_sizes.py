"""Deltas of very different sizes meet in one subspace, from their initial values to the transfer among all of them."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from transformers import AutoModelForMaskedLM

from deltatune.core import checkpoint
from deltatune.core.files import read_json
from deltatune.core.reuse import open_run
from deltatune.core.run import read_records
from deltatune.core.weights import flatten
from deltatune.subspace import cli
from deltatune.subspace.space import read

NAMES = ("lora", "bitfit", "full")
SHORT = ["--train.steps", 2, "--train.eval_every", 1, "--train.batch_size", 4, "--device", "cpu"]


@pytest.fixture(scope="module")
def made(bench, tmp_path_factory):
    """A folder with `init`, `original`, `space` of the first task, and `out`: the second task, optimized and transferred."""
    folder = tmp_path_factory.mktemp("sizes")

    def run(*words):
        assert cli.main(list(map(str, words))) == 0

    words = ["make-init", "--model", bench / "model", "--form", "prompt", "--out_dir", folder / "init"]
    run(*words, "--deltas+", "LoRA", "--deltas.rank", 1, "--deltas+", "BitFit", "--deltas+", "Full")
    first = ["--tasks", f"[{bench / 'first.yaml'}]"]
    words = ["train-delta", "--init", folder / "init", *first, "--out_dir", folder / "original", "--lr", 0.01, *SHORT]
    run(*words)
    words = ["approximate", "--init", folder / "init", "--solutions", f"[{folder / 'original'}]", "--out_dir", folder / "space"]
    run(*words, *first, "--k", 3, "--mixtures", 0, "--lr", 0.1, *SHORT)
    words = ["optimize", "--subspace", folder / "space", "--tasks", f"[{bench / 'second.yaml'}]", "--out_dir", folder / "out"]
    run(*words, "--lrs", "[1]", "--controls", "[zero]", *SHORT)
    return folder


def sizes_by_hand(bench):
    """The number of values of each delta, counted on the model itself."""
    model = AutoModelForMaskedLM.from_pretrained(bench / "model")
    parameters = dict(model.named_parameters())  # a tied matrix once
    queries_and_values = 2 * model.config.num_hidden_layers
    return {
        "lora": queries_and_values * 2 * model.config.hidden_size,  # rank 1: a row and a column of each matrix
        "bitfit": sum(tensor.numel() for name, tensor in parameters.items() if name.endswith("bias")),
        "full": sum(tensor.numel() for tensor in parameters.values()),
    }


def test_a_delta_keeps_its_own_size_from_its_initial_values_to_its_projection(bench, made):
    sizes = read_json(made / "init/run.json")["sizes"]
    assert sizes == sizes_by_hand(bench)
    assert list(sizes) == list(NAMES)
    assert len(set(sizes.values())) == 3
    space = read(made / "space")
    for name, size in sizes.items():
        initial, solution = (open_run(made / where / name).saved.weights for where in ("init", "original/first"))
        assert {flatten(weights).numel() for weights in (initial, solution)} == {size}
        assert float(flatten(solution).dist(flatten(initial))) > 0
        assert {field: tuple(tensor.shape) for field, tensor in space.projections[name].tensors().items()} == {
            "encoder_weight": (3, size),
            "encoder_bias": (3,),
            "encoder_low_weight": (3, 3),
            "encoder_low_bias": (3,),
            "decoder_weight": (size, 3),
        }
    assert space.points[str(bench / "first.yaml")].shape == (1, 3, 3)


def test_one_point_is_decoded_into_every_size(made):
    space = read(made / "space")
    for name in NAMES:
        initial = checkpoint.read(made / "init" / name).weights
        decoded = space.decode(name, torch.ones(3))
        assert {key: value.shape for key, value in decoded.items()} == {key: value.shape for key, value in initial.items()}
        assert torch.isfinite(flatten(decoded)).all()
        assert float(flatten(decoded).dist(flatten(initial))) > 0
        assert torch.equal(flatten(space.decode(name, torch.zeros(3))), flatten(initial))


def test_every_source_is_transferred_to_both_others(made):
    records = [record for record in read_records(made / "out") if record["split"] == "test"]
    pairs = {kind: [(r["source"], r["target"]) for r in records if r["kind"] == kind] for kind in ("optimization", "transfer")}
    assert sorted(pairs["optimization"]) == sorted(zip(NAMES, NAMES, strict=True))
    assert len(pairs["transfer"]) == 6
    assert set(pairs["transfer"]) == set(permutations(NAMES, 2))
    for record in records:
        assert 0 <= record["value"] <= 1
        assert math.isfinite(record["loss"])
        assert record["n"] == 9
    # Each delta starts from the model as it is, so their initial values score alike; what was found does not.
    zero = [record["loss"] for record in records if record["kind"] == "zero"]
    assert zero == pytest.approx(zero[:1] * 3, abs=1e-5)
    assert all(abs(record["loss"] - zero[0]) > 1e-4 for record in records if record["kind"] != "zero")


def test_what_a_source_found_is_stored_as_deltas_of_each_size(made, command, tmp_path):
    run = made / "out/runs/second/lora/lr-1"
    assert read_json(run / "run.json")["trainable"] == {"LoRA": 0, "other": 3}
    command("transfer", "--subspace", made / "space", "--run", run, "--out_dir", tmp_path / "moved", "--device", "cpu")
    moved = {r["target"]: r["loss"] for r in read_records(tmp_path / "moved") if r["split"] == "test"}
    sizes = read_json(made / "init/run.json")["sizes"]
    assert {name: flatten(checkpoint.read(tmp_path / "moved" / name).weights).numel() for name in NAMES} == sizes
    for record in read_records(made / "out"):
        if (record["source"], record["split"]) == ("lora", "test"):
            assert moved[record["target"]] == pytest.approx(record["loss"], abs=1e-5)
