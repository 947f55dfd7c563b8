"""The shipped configurations of the published scripts: they parse, have the published sizes, and run."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import wrap
from deltatune.core.cli import CHOICES, runner
from deltatune.core.cli.parsing import parse
from deltatune.core.delta import attach
from deltatune.core.legacy import rename
from deltatune.ensemble.cli import COMMANDS
from deltatune.ensemble.measures import MEASURES
from deltatune.ensemble.modules import places

CONFIGS = Path(str(files("deltatune.ensemble") / "configs" / "published"))
TUNE = {"adapter", "lora", "prefix", "sources_adapter", "adapter_tuneall"}
OTHERS = {"adapter_devall": "test-all", "unit_model_merge": "start"}
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
TASKS = "[world/sentiment-0, world/sentiment-1]"
LOOK = ("--device", "cpu", "--max_length", "64", "--max_train", "16", "--max_dev", "8", "--max_test", "8")


def command_of(name):
    return "tune-all" if name in TUNE else OTHERS.get(name, "weights")


def parsed(name):
    function = runner.load(COMMANDS[command_of(name)].target)
    words = ["--config", str(CONFIGS / f"{name}.yaml"), "--out_dir", "out"]
    return parse(function, "deltatune-ensemble", words, [runner.load(choice) for choice in CHOICES])


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_parses_and_holds_its_settings(name):
    given = parsed(name)
    if name in TUNE:
        optimizer, train = given["train"].optimizer, given["train"]
        assert (optimizer.name, optimizer.lr, optimizer.max_grad_norm, optimizer.schedule) == ("adafactor", 5e-4, 0.1, "constant")
        assert (train.batch_size, train.ties, given["init_seed"], given["max_length"]) == (16, "last", 42, 512)
        assert train.steps == 200 or name != "adapter_tuneall"
    if command_of(name) == "weights":
        [measure] = given["measures"]
        assert measure in MEASURES
        assert given["temperature"] is None
        if measure in ("loss", "el2n", "kl", "hidden_cosine"):
            assert given["budget"].max_examples == 50
        assert given["budget"].reduction == "sum"


def test_every_configuration_has_a_row_in_the_readme():
    readme = Path(__file__).parents[2].joinpath("packages/ensemble/README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"{name}.yaml" not in readme] == []


@pytest.fixture(scope="module")
def t5_base():
    """T5 v1.1 base without memory for its weights."""
    sizes = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12}
    with torch.device("meta"):
        return wrap(T5ForConditionalGeneration(T5Config(feed_forward_proj="gated-gelu", **sizes)))


@pytest.mark.golden("ensemble", "checkpoint_layout.json")
@pytest.mark.parametrize("name", ["adapter", "lora", "prefix"])
def test_sizes_and_names_at_full_size(golden, t5_base, name):
    tuned = attach(t5_base, parsed(name)["delta"])
    try:
        own = tuned.parameters_by_name()
        assert sum(parameter.numel() for parameter in own.values()) == 1_105_920
        layout = golden.case("ensemble", "checkpoint_layout.json", "checkpoints")[name]
        published = rename({key: torch.zeros(1, 1) for key in layout["parameters"]})  # block 0 stands for all
        assert {key for key in published if ".block.0." in key or ".block." not in key} <= set(own)
        assert (len(places(t5_base, "block")), len(places(t5_base, "sublayer"))) == (24, 60)
    finally:
        tuned.detach()


@pytest.fixture(scope="module")
def runs(models, tmp_path_factory):
    """Sources, references and sources tuned on targets, made with the published configurations for two updates."""
    from deltatune.ensemble.cli import main

    folder = tmp_path_factory.mktemp("published")
    few = ["--train.steps", 2, "--train.eval_every", 1, "--tasks", TASKS, "--data_dir", folder, *LOOK]
    for name in ("adapter", "lora", "prefix", "sources_adapter"):
        words = ["tune-all", "--config", CONFIGS / f"{name}.yaml", "--model", models / "t5", *few, "--out_dir", folder / name]
        sizes = {"prefix": ["--delta.length", 4], "lora": ["--delta.rank", 2]}
        assert main(list(map(str, [*words, *sizes.get(name, [])]))) == 0
    words = ["tune-all", "--config", CONFIGS / "adapter_tuneall.yaml", "--sources", folder / "sources_adapter", *few]
    assert main(list(map(str, [*words, "--out_dir", folder / "tuneall"]))) == 0
    return folder


@pytest.mark.parametrize("name", [name for name in NAMES if command_of(name) in ("weights", "test-all")])
def test_a_configuration_runs(runs, command, tmp_path, name):
    words = [
        command_of(name),
        "--config",
        CONFIGS / f"{name}.yaml",
        "--sources",
        runs / "sources_adapter",
        "--tasks",
        TASKS,
        *LOOK,
    ]
    given = parsed(name)
    if given.get("reference") is not None:
        words += ["--reference", runs / "adapter"]
    if given.get("tuned") is not None:
        words += ["--tuned", runs / "tuneall"]
    if given.get("measures") == ["manual"]:
        (tmp_path / "categories.yaml").write_text("opinions: [sentiment-0, sentiment-1]\n", encoding="utf-8")
        words += ["--taxonomy", tmp_path / "categories.yaml"]
    command(*words, "--out_dir", tmp_path / "out")
    if command_of(name) == "weights":
        weights = tmp_path / "out"
        more = ["--tuned", runs / "tuneall"] if given["measures"] == ["performance"] else []
        more += (
            ["--module", "encoder_block_0" if given["by"] == "block" else "encoder_block_0_layer_0"]
            if given["by"] != "whole"
            else []
        )
        merge = ["start", "--config", CONFIGS / "unit_model_merge.yaml", "--weights", weights, "--measure", given["measures"][0]]
        assert "sentiment-1" in command(*merge, *more, "--out_dir", tmp_path / "start")
