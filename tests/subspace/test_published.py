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
from deltatune.core.files import read_json
from deltatune.core.legacy import rename
from deltatune.core.run import read_records
from deltatune.core.weights import layout
from deltatune.subspace.cli import COMMANDS
from deltatune.subspace.initial import PUBLISHED, names_of
from deltatune.subspace.projections import parameter_count
from deltatune.subspace.space import read
from deltatune.subspace.splits import read_split

CONFIGS = Path(str(files("deltatune.subspace") / "configs" / "published"))
SOURCES = {"adapter": "houlsby", "lora": "lora", "prefix": "prefix"}
COMMAND = {
    "make_init": "make-init",
    "make_init-hypernetwork": "make-init",
    "multi-hypernetwork": "hypernetwork",
    "train_delta": "train-delta",
    "train_singletask-glue-sst2": "approximate",
    "train_60tasks-multigpu": "approximate",
    **{f"transfer_singletask_{kind}-from-glue-sst2": "optimize" for kind in SOURCES},
    **{f"transfer_multitask_{kind}": "optimize" for kind in SOURCES},
}


def parsed(name):
    function = runner.load(COMMANDS[COMMAND[name]].target)
    words = ["--config", str(CONFIGS / f"{name}.yaml"), "--out_dir", "out"]
    return parse(function, "deltatune-subspace", words, [runner.load(choice) for choice in CHOICES])


def test_there_is_one_for_every_published_script():
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted(COMMAND)
    readme = Path(__file__).parents[2].joinpath("packages/subspace/README.md").read_text(encoding="utf-8")
    assert [name for name in COMMAND if f"{name}.yaml" not in readme] == []


@pytest.mark.parametrize("name", [name for name in COMMAND if COMMAND[name] in ("train-delta", "approximate", "optimize")])
def test_a_configuration_has_the_published_settings(golden, name):
    given = parsed(name)
    train = given["train"]
    assert (train.optimizer.name, train.optimizer.schedule, train.optimizer.max_grad_norm) == ("adafactor", "constant", None)
    assert given["data_seed"] == 42
    script = golden("subspace", "tasks.json")["stage2_script_tasks"]
    expected = {
        "train_delta": (5e-4, 16, 100_000, 1000),
        "train_singletask-glue-sst2": (1e-4, 8, 100_000, 1000),
        "train_60tasks-multigpu": (1e-4, 16, 75_000, 1000),
    }
    if COMMAND[name] == "optimize":
        single = "singletask" in name
        assert given["lrs"] == [0.01, 0.05]
        assert (train.batch_size, train.steps, train.eval_every) == (8, 5000, 500 if single else 100)
        assert given["tasks"] == [f"gym/{task}" for task in script["single_from_glue-sst2" if single else "multi"]]
        assert given["sources"] == [SOURCES[name.split("_")[2].partition("-")[0]]]
        assert given["max_dev"] == (None if single else 1000)
    else:
        assert (train.optimizer.lr, train.batch_size, train.steps, train.eval_every) == expected[name]
    if COMMAND[name] == "approximate":
        many = "60" in name
        assert (given["k"], given["objective"].weight) == ((100, 10.0) if many else (4, 0.1))
        assert (given["train_lines"], given["dev_lines"]) == ((20_000, 240) if many else (None, None))
        assert (given["objective"].mixing, given["objective"].reconstruction) == ("stick", "l2norm")
        assert given["max_dev"] == (None if many else 1000)
        assert many == (given["split"] == "train_60_unseen_rest")
        assert len(read_split("train_60_unseen_rest").sources) == 60


def test_sizes_and_names_at_full_size(golden):
    """The three deltas on T5-base, weights on the meta device, and the projections between them."""
    given = parsed("make_init")
    assert tuple(given["deltas"]) == PUBLISHED
    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    sizes = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12}
    with torch.device("meta"):
        backbone = wrap(T5ForConditionalGeneration(T5Config(feed_forward_proj="gated-gelu", **special, **sizes)))
    tables = golden("subspace", "flatten_layout.json")["t5_base"]["tables"]
    for published, name, config in zip(SOURCES, names_of(given["deltas"]), given["deltas"], strict=True):
        assert name == SOURCES[published]
        tuned = attach(backbone, config)
        rows = layout(tuned.parameters_by_name(), input_major=True)
        table = tables[published]["rows"]
        assert [row.name for row in rows] == list(rename({each[0]: torch.empty(each[1], device="meta") for each in table}))
        assert rows[-1].end == 1_105_920
        tuned.detach()
    assert parameter_count(1_105_920, 4) == 8_847_384
    assert 3 * parameter_count(1_105_920, 100) == 663_582_600


WORLD = ("world/sentiment-0", "world/sentiment-1")
BRIEF = ("--train.steps", 2, "--train.eval_every", 2, "--train.batch_size", 4, "--device", "cpu")
FEW = ("--max_dev", 4, "--max_test", 4)


@pytest.fixture(scope="module")
def published_runs(tmp_path_factory):
    """Initial values of the published kinds on the built-in T5, and solutions of two tasks."""
    from deltatune.subspace.cli import main

    folder = tmp_path_factory.mktemp("published")
    for name, out in (("make_init", "init"), ("make_init-hypernetwork", "shapes")):
        words = ["make-init", "--config", CONFIGS / f"{name}.yaml", "--model", "world/t5", "--out_dir", folder / out]
        assert main(list(map(str, words))) == 0
    words = [
        "train-delta",
        "--config",
        CONFIGS / "train_delta.yaml",
        "--init",
        folder / "init",
        "--data_dir",
        "null",
        *BRIEF,
        *FEW,
    ]
    words += ["--tasks", f"[{', '.join(WORLD)}]", "--out_dir", folder / "solutions"]
    assert main(list(map(str, words))) == 0
    return folder


@pytest.mark.parametrize("name", [name for name in COMMAND if COMMAND[name] == "approximate"])
def test_an_approximation_runs_for_two_steps_and_is_used(published_runs, command, name):
    out, tasks, stage = published_runs / name, WORLD[:1], "singletask"
    words = ["approximate", "--config", CONFIGS / f"{name}.yaml", "--init", published_runs / "init", "--data_dir", "null", *BRIEF]
    words += ["--solutions", f"[{published_runs / 'solutions'}]", "--mixtures", 0, "--dev_lines", 4, "--out_dir", out]
    if "60" in name:
        tasks, stage = WORLD, "multitask"
        words += ["--split", "null", "--train_lines", 6]
    command(*words, "--tasks", f"[{', '.join(tasks)}]")
    assert read_json(out / "run.json")["k"] == (4 if len(tasks) == 1 else 100)
    assert list(read(out).points) == list(tasks)
    for kind in SOURCES:
        config = f"transfer_{stage}_{kind}{'-from-glue-sst2' if stage == 'singletask' else ''}.yaml"
        words = ["optimize", "--config", CONFIGS / config, "--subspace", out, "--tasks", f"[{WORLD[1]}]", "--data_dir", "null"]
        command(*words, *BRIEF, *FEW, "--controls", "[]", "--out_dir", published_runs / config)
        records = read_records(published_runs / config)
        assert {(r["source"], r["target"]) for r in records} == {(SOURCES[kind], name) for name in SOURCES.values()}
        assert {r["metric"] for r in records} == {"ACC"}  # of words that are written


def test_the_hypernetwork_runs_for_two_steps(published_runs, command):
    config, out = CONFIGS / "multi-hypernetwork.yaml", published_runs / "maps"
    words = ["hypernetwork", "--config", config, "--init", published_runs / "shapes", "--data_dir", "null", "--task", WORLD[0]]
    command(*words, *BRIEF, *FEW, "--out_dir", out)
    assert (read(out).k, read(out).names) == (8, ("houlsby", "lora", "prefix", "full"))
    given = parsed("multi-hypernetwork")
    assert (given["k"], given["differences"], given["seed"]) == (8, "fastfood", 42)
    assert (given["train"].steps, given["train"].eval_every) == (100_000, 2000)
    adapter, lora, prefix, full = parsed("make_init-hypernetwork")["deltas"]
    assert (adapter.width, lora.rank, prefix.length, prefix.width, type(full).__name__) == (64, 10, 120, None, "Full")
