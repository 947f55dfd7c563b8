"""The shipped configurations of demonstrations, searches and votes: they are the published ones, and run."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from deltatune.combos.cli import COMMANDS
from deltatune.combos.commands.gridding import Choice, plans_of
from deltatune.core.cli import CHOICES, runner
from deltatune.core.cli.parsing import parse
from deltatune.core.data import read_task_file
from deltatune.core.files import read_json
from deltatune.core.run import read_records

CONFIGS = Path(str(files("deltatune.combos") / "configs" / "published"))
NAMES = {
    "get_sbert_embedding": "embed",
    "run_prompt_demo": "grid",
    "generate_labels": "search labels",
    "generate_template": "search templates",
    "sort_prompt": "search labels",
    "ensemble": "vote",
}


def parsed(name):
    _, command, _ = runner.locate(COMMANDS, NAMES[name].split())
    words = ["--config", str(CONFIGS / f"{name}.yaml"), "--out_dir", "out"]
    return parse(runner.load(command.target), "deltatune-combos", words, [runner.load(choice) for choice in CHOICES])


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_has_the_published_values(name):
    given = parsed(name)
    if name in ("generate_labels", "generate_template", "sort_prompt"):
        assert (given["lr"], given["train"].batch_size, given["train"].steps, given["methods"]) == (1e-5, 8, 1000, "full")
        expected = {"generate_labels": (100, 30, 100), "sort_prompt": (100, 30, 10)}
        if name in expected:
            assert (given["k_likely"], given["k_neighbors"], given["pairs"]) == expected[name]
        else:
            assert (given["filler"], given["beam"]) == ("t5-3b", 100)
    if name == "run_prompt_demo":
        own = ("methods", "templates", "rates", "batch_sizes", "seeds")
        other = (*own, "out_dir", "config_yaml", "workers", "dry_run", "tag")
        plans = plans_of(Choice(*(given[key] for key in own)), {key: v for key, v in given.items() if key not in other})
        assert len(plans) == 45
        assert {(plan.demos.contexts, plan.demos.place, plan.demos.rate) for _, plan in plans} == {(16, "class", 0.5)}
        assert {plan.demos.seed for _, plan in plans} == {13, 21, 42, 87, 100}


def test_the_configurations_run_for_two_steps(few, command, tmp_path):
    def config(name):
        return ["--config", CONFIGS / f"{name}.yaml"]

    data = ["--data_dir", Path(few[3]).parent]
    words = ["--task", few[3], *data, "--encoder", few[1], "--device", "cpu", "--out_dir", tmp_path / "vectors"]
    command("embed", *config("get_sbert_embedding"), *words)
    grid = ["--seeds", "[13]", "--rates", "[1e-5]", "--batch_sizes", "[2]", "--demos.vectors", tmp_path / "vectors"]
    grid += ["--demos.contexts", 2, "--out_dir", tmp_path / "grid"]
    command("grid", *config("run_prompt_demo"), *few[:-2], *data, *grid)
    small = ["--k_likely", 3, "--pairs", 2, "--out_dir"]
    command("search", "labels", *config("generate_labels"), *few, *data, *small, tmp_path / "words")
    lines = "*cls**sent_0*_so*mask*_.*sep+*\n*cls**sent_0*_it*mask*_.*sep+*\n"
    (tmp_path / "templates.txt").write_text(lines, encoding="utf-8")
    joint = ["--templates", tmp_path / "templates.txt", "--top_templates", 2, *small]
    command("search", "labels", *config("sort_prompt"), *few, *data, *joint, tmp_path / "both")
    assert {row["template"] for row in read_records(tmp_path / "both")} == set(lines.splitlines())
    template = ["--filler", "world/t5", "--beam", 4, "--out_dir", tmp_path / "found"]
    command("search", "templates", *config("generate_template"), *few, *data, *template)
    assert "*mask*" in str(read_task_file(tmp_path / "found/task.yaml").template)
    command("vote", *config("ensemble"), "--runs", tmp_path / "both", "--device", "cpu", "--out_dir", tmp_path / "vote")
    assert read_json(tmp_path / "vote/run.json")["tried"] == 4
