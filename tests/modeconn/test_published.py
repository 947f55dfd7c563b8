"""The shipped configurations of the published scripts: they parse, have the published sizes, and run."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification, T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import untie, wrap
from deltatune.core.cli import CHOICES, runner
from deltatune.core.cli.parsing import parse
from deltatune.core.cli.runner import locate
from deltatune.core.delta import Full, attach
from deltatune.core.files import read_json
from deltatune.core.legacy import rename
from deltatune.modeconn import mixing
from deltatune.modeconn.cli import COMMANDS

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


@pytest.fixture(scope="module")
def ends(bench, tmp_path_factory):
    """Two runs of each mode, tuned with the published settings for two updates."""
    from deltatune.modeconn.cli import main

    folder, found = tmp_path_factory.mktemp("published"), {}
    made = {"adapter": "adapter_full_data", "finetune": "finetune_full_data", "roberta": "run_glue_adapter"}
    for mode, name in made.items():
        for seed in (20, 30):
            out = folder / f"{mode}-{seed}"
            words = ["tune", "--config", CONFIGS / f"{name}.yaml", "--model", bench / "model", "--task", bench / "task.yaml"]
            words += [
                "--data_dir",
                bench,
                "--train.steps",
                2,
                "--init_seed",
                seed,
                "--max_train",
                8,
                "--max_dev",
                6,
                "--max_test",
                6,
            ]
            assert main(list(map(str, [*words, "--device", "cpu", "--out_dir", out]))) == 0
            found[mode, seed] = out
    return found


@pytest.mark.parametrize("name", [name for name in COMMAND if name not in ("adapter_full_data", "finetune_full_data")])
def test_a_configuration_runs_for_two_steps(bench, command, ends, tmp_path, name):
    kind, out = COMMAND[name], tmp_path / "out"
    mode = "roberta" if name == "itp_pretrain_adapter" else "finetune" if "finetune" in name else "adapter"
    words = [*kind.split(), "--config", CONFIGS / f"{name}.yaml"]
    if kind == "cartography combine":
        rows = {str(i): {"acc": [1.0, 0.0], "confidence": [0.5, 0.25]} for i in range(4)}
        for path, content in (
            ("map/cartography.json", rows),
            ("line/train_data_analysis.json", {"0.0": {"zero_list": [0], "one_list": [1]}}),
        ):
            from deltatune.core.files import write_json

            write_json(tmp_path / path, content)
        command(*words, "--map", tmp_path / "map", "--path", tmp_path / "line", "--out_dir", out)
        return
    if kind != "tune":
        words += ["--left", ends[mode, 20], "--right", ends[mode, 30]]
    if kind == "distance":
        command(*words)
        return
    task = bench / "task.yaml"
    words += [
        "--model",
        bench / "model",
        "--data_dir",
        bench,
        "--device",
        "cpu",
        "--out_dir",
        out,
        "--max_test",
        6,
        "--max_dev",
        6,
    ]
    words += ["--max_train", 8, "--task", f"[{task}]" if kind == "walk" else task]
    if kind == "walk":
        words += ["--points", 2]
    else:
        words += ["--train.steps", 2, "--train.epochs", 1 if name == "adapter_cartography" else "null"]
    words += ["--points", 3] if kind == "curve" else ["--lrs", "[0.1]"] if kind == "mix" else []
    command(*words)
    assert read_json(out / "run.json")["status"] == "finished"
