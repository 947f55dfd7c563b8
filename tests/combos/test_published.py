"""The shipped configurations of the published scripts: they parse, are the published runs, have the published sizes, and run."""

from __future__ import annotations

import ast
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from deltatune.combos.asking import template_text
from deltatune.combos.cli import COMMANDS
from deltatune.combos.combination import Combination, Sizes, owned
from deltatune.combos.commands.gridding import Choice, plans_of
from deltatune.core.backbone import wrap
from deltatune.core.cli import CHOICES, runner
from deltatune.core.cli import COMMANDS as CORE
from deltatune.core.cli.parsing import parse
from deltatune.core.data import builtin_task
from deltatune.core.delta import attach
from deltatune.core.files import read_json

CONFIGS = Path(str(files("deltatune.combos") / "configs" / "published"))
GRIDS = ("run_one_task", "run_fulldata_one_task", "run_mulstage_task", "run_fulldata_mulstage_one_task")
NAMES = {**dict.fromkeys(GRIDS, "grid"), "run": "run", "run_mulstage": "sequence"}
NAMES |= dict.fromkeys(("gather_result", "gather_result_gen_gap"), "gather")
SEARCHES = ("get_sbert_embedding", "run_prompt_demo", "generate_labels", "generate_template", "sort_prompt", "ensemble")
"""What the program inherits; see test_published_searches.py."""
PERCENT = {"prompt": "0.003", "bias": "0.09", "adapter": "1.75", "prompt+bias": "0.09", "prompt+adapter": "1.76"}
PERCENT |= {"bias+adapter": "1.84", "prompt+bias+adapter": "1.85"}
"""Share of RoBERTa-large that is trained, as the paper's table says."""
VARIED = ("methods", "templates", "rates", "batch_sizes", "seeds")
OWN = ("out_dir", "config_yaml", "workers", "dry_run", "tag", "overwrite")


def parsed(name, *words):
    function = runner.load(COMMANDS[NAMES[name]].target)
    out = [] if NAMES[name] == "gather" else ["--out_dir", "out"]
    given = ["--config", str(CONFIGS / f"{name}.yaml"), *out, *words]
    return parse(function, "deltatune-combos", given, [runner.load(choice) for choice in CHOICES])


def test_there_is_one_for_every_published_script():
    every = [*NAMES, *SEARCHES, "generate_k_shot"]
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted(every)
    readme = Path(__file__).parents[2].joinpath("packages/combos/README.md").read_text(encoding="utf-8")
    assert [name for name in every if f"{name}.yaml" not in readme] == []
    words = ["--config", str(CONFIGS / "generate_k_shot.yaml")]
    given = parse(runner.load(CORE["fewshot"].target), "deltatune", words)
    assert (given["k"], given["seed"], given["sampler"], given["order"]) == (16, [100, 13, 21, 42, 87], "kshot", "published")


@pytest.mark.golden("combos", "run_matrix.json")
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_the_runs_of_its_script(golden, name):
    script = golden.case("combos", "run_matrix.json", "scripts")[f"{name}.sh"]
    given = parsed(name)
    options = {key: value for key, value in given.items() if key not in (*VARIED, *OWN)}
    plans = plans_of(Choice(*(given[key] for key in VARIED)), options)
    assert len(plans) == script["runs_per_task"] == len(dict(plans))
    names = {"Y": "manual", "N": "none"}
    for group in script["groups"]:
        stages = [stage.replace(",", "+") for stage in group["training_params"] or []]
        combination, template = Combination.parse(">".join(stages) or "none"), names[group["hard_template"]]
        own = [plan for _, plan in plans if plan.combination == combination and plan.template == template]
        assert len(own) == group["n_runs"]
        assert {plan.config.init_seed for plan in own} == {int(seed) for seed in group["seeds"]}
        rates = {plan.config.train.optimizer.lr for plan in own}
        assert rates == {None if rate is None else float(rate) for rate in group["learning_rates"]}
        for plan in own:
            train = plan.config.train
            assert (train.steps, train.eval_every, plan.config.backbone.model) == (
                group["max_steps"],
                group["eval_steps"],
                group["model"],
            )
            assert plan.sizes.prompt_length == group["prompt_num"]
            assert ("prompt" in plan.combination.methods) == group["soft_prompt"]
            seeded = "k-shot" in str(plan.config.task.data_dir)
            assert not seeded or plan.config.task.data_dir.name == f"16-{plan.config.init_seed}"


@pytest.mark.golden("combos", "run_matrix.json")
def test_templates_words_and_lengths_of_the_tasks(golden):
    for folder, scripts in golden.case("combos", "run_matrix.json", "tasks").items():
        config = builtin_task(f"glue/{folder.lower()}")
        for entry in scripts.values():
            texts = 2 if "sent_1" in str(entry["templates"]["N"]) else 1
            for letter, choice in (("Y", "manual"), ("N", "none")):
                published = entry["templates"][letter]
                assert template_text(config, texts, choice, "first") == published["with_soft_prompt"]
                if "without_soft_prompt" in published:
                    assert template_text(config, texts, choice) == published["without_soft_prompt"]
            assert dict(config.label_words) == {str(key): word for key, word in ast.literal_eval(entry["mapping"]).items()}


def test_a_prompt_behind_the_text_moves_no_word():
    config = builtin_task("glue/sst-2")
    assert template_text(config, 1, "manual", "last") == "*cls**sent_0*_It_was*mask*.*prompt*sep+*"


@pytest.mark.parametrize("name", ["run", "run_mulstage", "gather_result", "gather_result_gen_gap"])
def test_a_configuration_parses_with_nothing_left_out(name):
    given = parsed(name)
    if NAMES[name] == "gather":
        assert given["select"] == "test"
        return
    train = given["train"]
    assert (train.steps, train.eval_every, train.batch_size, given["lr"], given["seed"]) == (6000, 200, 4, 1e-3, 13)
    assert (train.optimizer.betas, train.optimizer.weight_decay, train.optimizer.warmup) == ((0.9, 0.999), 0.0, 0)


@pytest.fixture(scope="module")
def large():
    """RoBERTa-large with its masked-word head, without memory for its weights."""
    sizes = {
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "hidden_size": 1024,
    }
    sizes |= {"num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    with torch.device("meta"):
        return wrap(RobertaForMaskedLM(RobertaConfig(**sizes)), form="prompt")


@pytest.mark.golden("combos", "trainable.json")
def test_sizes_and_names_at_full_size(golden, large):
    facts = golden.case("combos", "trainable.json", "reference_models")["roberta-large"]
    for text in PERCENT:
        combination = Combination.parse(text)
        tuned = attach(large, *(Sizes().delta(method, in_template=True) for method in combination.methods))
        tensors = tuned.parameters_by_name()
        trained = owned(tuned, combination.stages[0])
        assert trained == set(tensors)
        count = sum(tensors[name].numel() for name in trained)
        assert count == facts[text.replace("+", ",")]["n_trainable"]
        whole = facts[text.replace("+", ",")]["n_total"]
        assert f"{100 * count / whole:.{3 if text == 'prompt' else 2}f}" == PERCENT[text]
        tuned.detach()
    every = Combination.parse("adapter>prompt>bias")
    tuned = attach(large, *(Sizes().delta(method, in_template=True) for method in every.methods))
    tensors = tuned.parameters_by_name()
    sizes = [sum(tensors[name].numel() for name in owned(tuned, stage)) for stage in every.stages]
    assert sizes == [6_343_680, 10_240, 375_897]
    assert sum(name.endswith("houlsby_up.weight") for name in tensors) == 48
    tuned.detach()


@pytest.mark.parametrize("name", [name for name, kind in NAMES.items() if kind != "gather"])
def test_a_configuration_runs_for_two_steps(few, command, tmp_path, name):
    words = [
        NAMES[name],
        "--config",
        CONFIGS / f"{name}.yaml",
        *few,
        "--data_dir",
        Path(few[3]).parent,
        "--out_dir",
        tmp_path / "out",
    ]
    if name in GRIDS:
        words += ["--seeds", "[13]", "--templates", "[none]", "--rates", "[1e-3]"]
    if name.startswith("run_fulldata"):
        words += ["--methods", "[prompt+bias+adapter]"]
    command(*words)
    if name in GRIDS:
        runs = read_json(tmp_path / "out/grid.json")["runs"]
        assert {run["status"] for run in runs} == {"finished"}
        assert len(runs) == (8 if name == "run_one_task" else 1)
        command("gather", "--config", CONFIGS / "gather_result_gen_gap.yaml", "--runs", tmp_path / "out")
