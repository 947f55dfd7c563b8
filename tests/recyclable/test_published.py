"""The shipped configurations of the published scripts: they parse, have the published sizes, and run."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from deltatune.core.backbone import wrap
from deltatune.core.cli import CHOICES, runner
from deltatune.core.cli import COMMANDS as CORE
from deltatune.core.cli.parsing import parse
from deltatune.core.data import read_task_file
from deltatune.core.delta import Full, Houlsby, attach
from deltatune.core.files import read_json
from deltatune.core.legacy import rename
from deltatune.recyclable.cli import COMMANDS

CONFIGS = Path(str(files("deltatune.recyclable") / "configs" / "published"))
SCRIPTS = {
    "run": "tune",
    "direct_apply_delta": "apply",
    "direct_measure": "apply",
    "check_itp": "interpolate",
    "run_oldinit": "init",
    "run_distill": "sweep",
    "run_distill_oldinit": "sweep",
    "cal_dist": "distance",
}
NAMES = [f"{script}_{mode}" for script in SCRIPTS for mode in ("adapter", "finetune")]
CHEMPROT_CLASSES = 13


def command_of(name):
    return SCRIPTS[name.rpartition("_")[0]]


def parsed(name, command=None, commands=COMMANDS):
    function = runner.load(commands[command or command_of(name)].target)
    words = ["--config", str(CONFIGS / f"{name}.yaml")]
    if command_of(name) != "distance":
        words += ["--out_dir", "out"]
    return parse(function, "deltatune-recyclable", words, [runner.load(choice) for choice in CHOICES])


@pytest.fixture(scope="module")
def roberta_base():
    """The classifier of roberta-base with the classes of ChemProt, without memory for its weights."""
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    with torch.device("meta"):
        return wrap(RobertaForSequenceClassification(RobertaConfig(**sizes, num_labels=CHEMPROT_CLASSES)))


def test_there_is_one_for_every_published_script():
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted([*NAMES, "get_few", "chemprot_few32"])
    readme = Path(__file__).parents[2].joinpath("packages/recyclable/README.md").read_text(encoding="utf-8")
    assert [name for name in [*NAMES, "get_few"] if f"{name}.yaml" not in readme] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_parses_with_nothing_left_out(name):
    given = parsed(name)
    if command_of(name) in ("tune", "init"):
        train = given["train"]
        assert (train.optimizer.lr, train.batch_size, train.epochs) == (2e-5, 16, 25 if name.endswith("adapter") else 10)
        assert (given["init_seed"], given["data_seed"], given["max_length"]) == (20, 20, 128)
    if command_of(name) == "sweep":
        train = given["train"]
        assert (train.optimizer.lr, train.batch_size, train.steps, train.optimizer.warmup, train.eval_every) == (
            1e-5, 2, 100_000, 2000, 1000,
        )  # fmt: skip
        settings = len(given["alphas"]) * len(given["betas"]) * len(given["temperatures"])
        assert settings == (36 if given["from_start"] else 30)
        assert given["seeds"] == [20, 30, 40]
    if command_of(name) == "interpolate":
        assert given["points"] == 26
        assert given["left"] != given["right"]


@pytest.mark.parametrize("name", ["run_adapter", "run_distill_adapter", "run_finetune", "run_distill_finetune"])
@pytest.mark.golden("recyclable", "parameter_counts.json", "adapter_forward_v02.json")
def test_sizes_and_names_at_full_size(golden, roberta_base, name):
    facts = golden("recyclable", "parameter_counts.json")["by_num_labels"][str(CHEMPROT_CLASSES)]
    delta = parsed(name)["delta"]
    tuned = attach(roberta_base, delta)
    try:
        count = sum(parameter.numel() for parameter in tuned.parameters_by_name().values())
        if isinstance(delta, Full):
            assert count == facts["backbone_with_head"]
            return
        assert isinstance(delta, Houlsby)
        assert count == facts["trainable_adapter_tuning"]
        assert (len(tuned.parameters_by_name()), len(tuned.head_names)) == (24 * 4 + 4, 4)
        # The names of a published checkpoint of one layer, at every layer.
        layer = golden.case("recyclable", "adapter_forward_v02.json", "model")["adapter_state"]
        published = rename(dict.fromkeys((name for name in layer if ".layer.0." in name), torch.zeros(())))
        own = set(tuned.parameters_by_name())
        assert {name.replace(".layer.0.", f".layer.{i}.") for name in published for i in range(12)} | {*tuned.head_names} == own
    finally:
        tuned.detach()


def test_the_task_of_the_few_shot_files_has_the_labels_of_chemprot():
    assert len(read_task_file(CONFIGS / "chemprot_few32.yaml").labels) == CHEMPROT_CLASSES
    given = parse(
        runner.load(CORE["fewshot"].target), "deltatune", ["--config", str(CONFIGS / "get_few.yaml")],
    )  # fmt: skip
    assert (given["k"], given["seed"], given["sampler"]) == (32, [20, 30, 40], "per-label")


@pytest.fixture(scope="module")
def ends(bench, tmp_path_factory):
    """Two runs of each mode, tuned with the published settings on the tiny bases for two updates."""
    from deltatune.recyclable.cli import main

    folder, found = tmp_path_factory.mktemp("published"), {}
    for mode in ("adapter", "finetune"):
        for base in ("old", "new"):
            out = folder / f"{mode}-{base}"
            words = ["tune", "--config", CONFIGS / f"run_{mode}.yaml", "--model", bench / base, "--task", bench / "task.yaml"]
            words += ["--out_dir", out, "--train.epochs", "null", "--train.steps", 2, "--data_dir", bench, "--device", "cpu"]
            assert main(list(map(str, words))) == 0
            found[mode, base] = out
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if command_of(name) != "tune"])
def test_a_configuration_runs_for_two_steps(bench, command, ends, tmp_path, name):
    mode, kind = name.rpartition("_")[2], command_of(name)
    old, new, out = ends[mode, "old"], ends[mode, "new"], tmp_path / "out"
    words = [kind, "--config", CONFIGS / f"{name}.yaml", "--device", "cpu"]
    if kind in ("interpolate", "distance"):
        words += ["--left", old, "--right", new]
    else:
        words += ["--teacher" if kind == "sweep" else "--run", old]
        words += ["--model", bench / ("old" if "measure" in name else "new")]
    if kind != "distance":
        words += ["--task", bench / "task.yaml", "--data_dir", bench, "--out_dir", out]
    if kind in ("init", "sweep"):
        words += ["--train.epochs", "null", "--train.steps", 2, "--train.optimizer.warmup", 0]
    if kind == "sweep":
        words += ["--alphas", "[0.9]", "--betas", "[5]", "--temperatures", "[5]", "--seeds", "[20]", "--train.eval_every", 1]
    command(*words)
    if "measure" in name:
        assert read_json(out / "run.json")["scores"]["dev"]["value"] == read_json(old / "run.json")["scores"]["dev"]["value"]
