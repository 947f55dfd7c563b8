"""Modules and splits that no published script uses, against their reference vectors."""

from __future__ import annotations

import pytest
import torch

from deltatune.modeconn import variants


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def tensors(entry):
    return {name: torch.tensor(value) for name, value in entry.items() if isinstance(value, list)}


def test_low_dimensional_adapter(golden):
    entry = golden.case("modeconn", "modules.json", "adapter_low_dimensional")
    t = tensors(entry)
    close(variants.low_dimensional_adapter(t["x"], t["z"], (t["H_A"], t["H_B"])), entry["y"])


def test_low_dimensional_lora(golden):
    entry = golden.case("modeconn", "modules.json", "lora_low_dimensional")
    t = tensors(entry)
    close(variants.low_dimensional_lora(t["x"], t["W"], t["z"], (t["H_A"], t["H_B"]), entry["alpha"]), entry["y"])
    assert t["H_A"].shape[1] // t["W"].shape[1] == entry["r"]


def test_low_rank_bias(golden):
    entry = golden.case("modeconn", "modules.json", "low_rank_bias")
    t = tensors(entry)
    close(variants.low_rank_bias(t["x"], t["W"], t["R"], t["B"], entry["alpha"]), entry["y"])
    assert len(t["R"]) == entry["r"]


@pytest.mark.parametrize("index", range(2))
def test_splits_of_the_classifier_branch(golden, index):
    case = golden.case("modeconn", "data_parsing.json", "index_splits")[index]
    small = case["task"] == "rte"
    train, validation, test = variants.resplit(case["n_train"], case["n_val"], case["seed"], small)
    held = [row + 10_000 if small else row for row in validation]
    rest = [row + 10_000 for row in test] if test is not None else [20_000 + row for row in range(case["test"]["n"])]
    for rows, part in ((train, "train"), (held, "validation"), (rest, "test")):
        expected = case[part]
        assert (len(rows), rows[: len(expected["first"])], sum(rows)) == (expected["n"], expected["first"], expected["sum"])
