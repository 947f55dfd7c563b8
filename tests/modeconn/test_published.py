"""The shipped configurations of the published scripts: they parse, have the published sizes, and run."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification, T5Config, T5ForConditionalGeneration

from deltatune.core import world_models
from deltatune.core.backbone import untie, wrap
from deltatune.core.cli import CHOICES, runner
from deltatune.core.cli.parsing import parse
from deltatune.core.cli.runner import locate
from deltatune.core.delta import Full, attach
from deltatune.core.files import read_json
from deltatune.core.legacy import rename
from deltatune.modeconn import mixing
from deltatune.modeconn.cli import COMMANDS, main

CONFIGS = Path(str(files("deltatune.modeconn") / "configs" / "published"))
TUNED = {
    "finetune_full_data": (1e-4, 2, "finetune"),
    "adapter_full_data": (5e-5, 2, "adapter"),
    "finetune_split_data_first": (5e-5, 2, "finetune"),
    "finetune_split_data_second": (5e-5, 2, "finetune"),
    "adapter_cartography": (5e-5, 4, "adapter"),
}
ROBERTA = {"run_glue_adapter": (3e-4, 50_000), "run_glue_finetune": (5e-5, 50_000), "run_glue_finetune_sst2": (5e-5, 15_000)}
CURVES = {"adapter_curve_find": (16, 10_000), "finetune_curve_find": (8, 5_000)}
MIXED = {f"diff_seed_finetune_mnli-{by}": by for by in ("block", "layer", "weight")}
WALKED = ["itp_diff_seed_adapter", "itp_diff_step_finetune", "itp_same_domain_finetune", "itp_split_data_finetune"]
WALKED += ["itp_traindata_adapter", "itp_pretrain_adapter", "itp_task_boundary_finetune"]
COMMAND = dict.fromkeys([*TUNED, *ROBERTA], "tune") | dict.fromkeys(CURVES, "curve") | dict.fromkeys(MIXED, "mix")
COMMAND |= dict.fromkeys(WALKED, "walk") | {"process_cartography": "cartography combine", "calculate_dist": "distance"}


def parsed(name):
    _, command, _ = locate(COMMANDS, COMMAND[name].split())
    words = ["--config", str(CONFIGS / f"{name}.yaml")] + (["--out_dir", "out"] if COMMAND[name] != "distance" else [])
    return parse(runner.load(command.target), "deltatune-modeconn", words, [runner.load(choice) for choice in CHOICES])


def test_there_is_one_for_every_published_script():
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted(COMMAND)
    readme = Path(__file__).parents[2].joinpath("packages/modeconn/README.md").read_text(encoding="utf-8")
    assert [name for name in COMMAND if f"{name}.yaml" not in readme] == []


@pytest.mark.parametrize("name", COMMAND)
def test_a_configuration_parses_with_the_published_settings(name):
    given = parsed(name)
    train = given.get("train")
    if name in TUNED:
        lr, accumulation, _ = TUNED[name]
        assert (train.optimizer.name, train.optimizer.lr, train.optimizer.max_grad_norm) == ("adafactor", lr, 0.01)
        assert (train.batch_size * train.accumulation, train.ties) == (16 * accumulation, "last")
        assert (train.steps, train.eval_every, train.snapshots) == (50_000, 5000, 10_000) or train.epochs == 8
        assert (given["init_seed"], given["data_seed"], given["max_length"]) == (20, 20, 512)
        assert given["half"] == {"finetune_split_data_first": "first", "finetune_split_data_second": "second"}.get(name)
    if name in ROBERTA:
        assert (train.optimizer.lr, train.steps) == ROBERTA[name]
        assert (train.optimizer.name, train.batch_size, given["max_length"]) == ("adamw", 32, 128)
    if name in CURVES:
        assert (train.batch_size, train.steps, train.eval_every, train.optimizer.lr) == (*CURVES[name], 100, 1e-4)
        assert (given["bends"], given["points"], train.optimizer.max_grad_norm) == (1, 26, None)
    if name in MIXED:
        assert (given["by"], given["begin_std"], train.steps, train.batch_size) == (MIXED[name], 10, 100_000, 8)
        assert given["lrs"] == ([0.1, 0.05, 0.01] if given["by"] == "weight" else [0.1, 0.05])
    if COMMAND[name] == "walk":
        assert given["points"] == (6 if name == "itp_traindata_adapter" else 26)
        assert given["left"] != given["right"]


@pytest.fixture(scope="module")
def t5_base():
    """T5 v1.1 base without memory for its weights."""
    sizes = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12}
    with torch.device("meta"):
        config = T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **sizes)
        return wrap(untie(T5ForConditionalGeneration(config)))


@pytest.mark.parametrize(
    ("name", "tensors", "count"), [("adapter_full_data", 120, 1_105_920), ("finetune_full_data", 282, 247_577_856)]
)
@pytest.mark.golden("modeconn", "tiny_t5.json")
def test_sizes_and_names_on_t5_base(golden, t5_base, name, tensors, count):
    delta = parsed(name)["delta"]
    tuned = attach(t5_base, delta)
    try:
        own = tuned.parameters_by_name()
        assert (len(own), sum(tensor.numel() for tensor in own.values())) == (tensors, count)
        if not isinstance(delta, Full):
            # The names of the published checkpoint of two layers, at every layer.
            known = golden.case("modeconn", "tiny_t5.json", "results")["adapter"]["extra_parameters"]
            names = rename(dict.fromkeys((key for key in known if ".block.0." in key), torch.zeros(())))
            assert {key.replace(".block.0.", f".block.{i}.") for key in names for i in range(12)} == set(own)
        else:
            for by, groups in (("block", 28), ("layer", 64), ("weight", 282)):
                assert len(mixing.numbered(list(own), mixing.grouping(by, t5_base.sites, t5_base.model))) == groups
    finally:
        tuned.detach()


def test_sizes_and_names_on_roberta_base(golden):
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "num_labels": 3}
    with torch.device("meta"):
        backbone = wrap(RobertaForSequenceClassification(RobertaConfig(**sizes)))
    tuned = attach(backbone, parsed("run_glue_adapter")["delta"])
    assert [row["trainable"] for row in tuned.report()] == [903_744, 592_899]
    known = golden("modeconn", "roberta.json")["adapter"]["trainable"]
    names = rename(dict.fromkeys((name for name in known if ".layer.0." in name), torch.zeros(())))
    own = set(tuned.parameters_by_name())
    assert {name.replace(".layer.0.", f".layer.{i}.") for name in names for i in range(12)} | set(tuned.head_names) == own
    tuned.detach()
    full = attach(backbone, parsed("run_glue_finetune")["delta"])
    assert sum(row["trainable"] for row in full.report()) == 124_647_939


# What an end is tuned by: script, seed of the initial values, task of the world in the place of the published one.
NLI, OTHER_NLI, SENTIMENT = "world/inference-0", "world/inference-1", "world/sentiment-0"
ENDS = {
    "adapter-20": ("adapter_full_data", 20, NLI),
    "adapter-30": ("adapter_full_data", 30, NLI),
    "finetune-20": ("finetune_full_data", 20, NLI),
    "finetune-30": ("finetune_full_data", 30, NLI),
    "finetune-anli": ("finetune_full_data", 20, OTHER_NLI),
    "first": ("finetune_split_data_first", 20, NLI),
    "second": ("finetune_split_data_second", 20, NLI),
    "map": ("adapter_cartography", 20, NLI),
    "roberta-adapter-20": ("run_glue_adapter", 20, NLI),
    "roberta-adapter-30": ("run_glue_adapter", 30, NLI),
    "roberta-finetune": ("run_glue_finetune", 20, NLI),
    "roberta-sst2": ("run_glue_finetune_sst2", 20, SENTIMENT),
}
ADAPTERS, MODELS = ("adapter-20", "adapter-30"), ("finetune-20", "finetune-30")
PAIRS = {
    "itp_diff_seed_adapter": ADAPTERS,
    "itp_diff_step_finetune": ("finetune-20@1", "finetune-30@2"),
    "itp_same_domain_finetune": ("finetune-20", "finetune-anli"),
    "itp_split_data_finetune": ("first", "second"),
    "itp_traindata_adapter": ADAPTERS,
    "itp_pretrain_adapter": ("roberta-adapter-20", "roberta-adapter-30"),
    "itp_task_boundary_finetune": ("roberta-finetune", "roberta-sst2"),
    "adapter_curve_find": ADAPTERS,
    "finetune_curve_find": MODELS,
    "calculate_dist": ADAPTERS,
    **dict.fromkeys(MIXED, MODELS),
}
TASKS = {"itp_same_domain_finetune": [NLI, OTHER_NLI], "itp_task_boundary_finetune": [NLI, SENTIMENT]}
FEW = ("--device", "cpu", "--max_train", 8, "--max_dev", 4, "--max_test", 4)
needs_the_world = pytest.mark.skipif("m0" not in world_models.names(), reason="the models of the world are not there")


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """`tuned(name)`: the run of `ENDS`, tuned by its script for two updates on the built-in model when it is first asked for."""
    folder = tmp_path_factory.mktemp("published")

    def run(name):
        name, _, step = name.partition("@")
        out, (made_by, seed, task) = folder / name, ENDS[name]
        if not out.exists():
            base = ("world/m0", "--form", "head") if made_by in ROBERTA else ("world/t5",)
            words = [
                "tune",
                "--config",
                CONFIGS / f"{made_by}.yaml",
                "--model",
                *base,
                "--task",
                task,
                "--init_seed",
                seed,
                "--data_seed",
                seed,
                *FEW,
            ]
            # The map takes one look for each epoch, of which two make two updates.
            words += ["--train.epochs", 2] if name == "map" else ["--train.steps", 2, "--train.snapshots", 1]
            assert main(list(map(str, [*words, "--out_dir", out]))) == 0
        return folder / (f"{name}@{step}" if step else name)

    return run


@needs_the_world
@pytest.mark.parametrize("name", ENDS)
def test_a_tuning_script_runs_for_two_steps(tuned, name):
    assert read_json(tuned(name) / "run.json")["status"] == "finished"
    assert {path.name for path in (tuned(name) / "snapshots").iterdir()} == {"1", "2"}
    assert {made_by for made_by, _, _ in ENDS.values()} == {*TUNED, *ROBERTA}


@needs_the_world
@pytest.mark.parametrize("name", PAIRS)
def test_a_script_between_two_ends_runs_for_two_steps(command, tuned, tmp_path, name):
    kind, out = COMMAND[name], tmp_path / "out"
    words = [kind, "--config", CONFIGS / f"{name}.yaml"]
    words += [word for side, end in zip(("--left", "--right"), PAIRS[name], strict=True) for word in (side, tuned(end))]
    base = "world/m0" if "roberta" in PAIRS[name][0] else "world/t5"
    if kind == "distance":
        assert "cosine" in command(*words)
        return
    tasks = TASKS.get(name, [NLI])
    words += ["--model", base, "--task", f"[{','.join(tasks)}]" if kind == "walk" else NLI, *FEW, "--out_dir", out]
    words += ["--points", 2] if kind == "walk" else ["--train.steps", 2]
    words += ["--points", 3] if kind == "curve" else ["--lrs", "[0.1]"] if kind == "mix" else []
    command(*words)
    facts = read_json(out / "run.json")
    assert facts["status"] == "finished"
    if kind == "walk":
        assert list(facts["paths"]) == tasks
    assert set(PAIRS) | {"process_cartography"} == {script for script, program in COMMAND.items() if program != "tune"}


@needs_the_world
def test_the_map_and_the_line_on_training_examples_are_combined(command, tuned, tmp_path):
    line = ("--left", tuned("adapter-20"), "--right", tuned("adapter-30"), "--model", "world/t5", "--task", f"[{NLI}]")
    walked = CONFIGS / "itp_traindata_adapter.yaml"
    command("walk", "--config", walked, *line, *FEW, "--points", 2, "--out_dir", tmp_path / "line")
    words = ("--config", CONFIGS / "process_cartography.yaml", "--map", tuned("map"), "--path", tmp_path / "line")
    command("cartography", "combine", *words, "--out_dir", tmp_path / "out")
    assert read_json(tmp_path / "out" / "run.json")["status"] == "finished"
    assert len(read_json(tuned("map") / "cartography.json")) == 8
