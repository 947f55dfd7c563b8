"""Every command once, end to end, on a tiny model."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from deltatune.combos import cli
from deltatune.combos.combination import Combination, Sizes, owned
from deltatune.core import checkpoint
from deltatune.core import cli as core
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.run import read_records

EXAMPLE = Path(__file__).parents[2] / "examples/reviews/model"


def test_the_language_of_combinations():
    assert str(Combination.parse("adapter+prompt")) == "prompt+adapter"
    assert str(Combination.parse("adapter > prompt>bias")) == "adapter>prompt>bias"
    assert Combination.parse("adapter>prompt>bias").upto(1) == ("prompt", "adapter")
    assert Combination.parse("adapter>prompt>bias").methods == ("prompt", "bias", "adapter")
    assert str(Combination.parse("none")) == "none"
    for text, why in (("promt", "no method 'promt'"), ("bias>bias", "bias stands there twice"), ("", "no method ''")):
        with pytest.raises(DeltatuneError, match=why):
            Combination.parse(text)


def test_the_published_sizes():
    adapter, prompt = (Sizes().delta(name, in_template=True) for name in ("adapter", "prompt"))
    assert (adapter.reduction, adapter.activation, adapter.placement) == (16, "silu", "after_dropout")
    assert (prompt.length, prompt.position) == (10, "template")


def test_a_run_keeps_what_it_asked_and_its_gap(few, command, tmp_path):
    words = ["run", "--methods", "bias+prompt", *few, "--sizes.prompt_length", 4, "--sizes.prompt_place", "last", "--seed", 7]
    said = command(*words, "--out_dir", tmp_path / "run")
    facts = read_json(tmp_path / "run/run.json")
    assert facts["config"]["task"]["template"] == "*cls**sent_0*_it_was*mask*_.*prompt*sep+*"
    assert facts["config"]["method"]["methods"] == "prompt+bias"
    assert (facts["config"]["init_seed"], facts["config"]["train"]["data_seed"]) == (7, 7)
    assert facts["found"]["train"]["n"] == 24
    assert "train - dev" in said
    assert "finished already" in command(*words, "--out_dir", tmp_path / "run")
    # The core scores it as it was asked.
    assert core.main(["evaluate", "--run", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert read_records(tmp_path / "run")[-1]["value"] == facts["scores"]["test"]["value"]


def test_zero_shot_is_the_untouched_model(few, command, refused, tmp_path):
    command("run", "--methods", "none", *few, "--out_dir", tmp_path / "zero")
    facts = read_json(tmp_path / "zero/run.json")
    assert (facts["trainable"], facts["step"], facts["scores"]["dev"]["n"]) == ({}, 0, 8)
    assert facts["status"] == "finished"
    assert "finished already" in command("run", "--methods", "none", *few, "--out_dir", tmp_path / "zero")
    assert "classification head is random" in refused(
        "run", "--methods", "none", "--form", "head", *few, "--out_dir", tmp_path / "x"
    )
    assert not (tmp_path / "x").exists()


def test_a_stage_changes_its_own_tensors_alone(few, command, tmp_path):
    words = [*few, "--train.snapshots", "[1]", "--rates", "[1e-2, 1e-2, 1e-2]", "--seed", 3]
    said = command("sequence", "--stages", "[adapter, prompt, bias]", *words, "--out_dir", tmp_path / "seq")
    names = ["1-adapter", "2-prompt", "3-bias"]
    weights = [checkpoint.read(tmp_path / "seq" / f"{name}@2").weights for name in names]
    changed = [{n for n, w in after.items() if n not in before or not torch.equal(w, before[n])}
               for before, after in itertools.pairwise(weights)]  # fmt: skip
    assert all("soft_prompt" in name for name in changed[0])
    assert all(name.endswith("bias") for name in changed[1])
    assert any("houlsby" in name for name in changed[1])  # biases of the adapters belong to a stage with bias
    facts = read_json(tmp_path / "seq/run.json")
    assert [stage["methods"] for stage in facts["stages"]] == ["adapter", "prompt", "bias"]
    records = read_records(tmp_path / "seq")
    assert [record["step"] for record in records if record["kind"] == "curve"] == [1, 2, 3, 4, 5, 6]
    last = checkpoint.read(tmp_path / "seq").weights
    assert all(torch.equal(value, last[name]) for name, value in checkpoint.read(tmp_path / "seq/3-bias").weights.items())
    assert "adapter" in said
    assert (tmp_path / "seq/curve.png").stat().st_size > 1000
    assert facts["stages"][0]["trainable"].keys() == {"Houlsby"}
    assert "finished already" in command("sequence", "--stages", "[adapter, prompt, bias]", *words, "--out_dir", tmp_path / "seq")


def test_other_deltas_of_the_core_in_any_order(few, command, tmp_path):
    words = ["--stages", "[prefix+lora, prompt]", *few, "--sizes.prefix_length", 3, "--sizes.rank", 2, "--seed", 5]
    command("sequence", *words, "--out_dir", tmp_path / "seq")
    stages = read_json(tmp_path / "seq/run.json")["stages"]
    assert [stage["trainable"].keys() for stage in stages] == [{"LoRA", "Prefix"}, {"SoftPrompt"}]
    before, after = (checkpoint.read(tmp_path / "seq" / f"{name}@2").weights for name in ("1-lora+prefix", "2-prompt"))
    changed = {name for name, tensor in after.items() if name not in before or not torch.equal(tensor, before[name])}
    assert len(changed) == 1
    assert "soft_prompt" in changed.pop()


def test_an_interrupted_sequence_ends_as_one_never_interrupted(few, command, capsys, tmp_path, monkeypatch):
    from deltatune.combos.methods import Combined

    words = ["sequence", "--stages", "[bias, adapter]", *few, "--lr", "1e-2"]
    command(*words, "--out_dir", tmp_path / "whole")
    plain = Combined.loss

    def fail(self, *args):
        if self.stage == ("adapter",):
            raise OSError(5, "gone")
        return plain(self, *args)

    monkeypatch.setattr(Combined, "loss", fail)
    assert cli.main([*map(str, words), "--out_dir", str(tmp_path / "cut")]) == 2
    assert "gone" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(Combined, "loss", plain)
    command(*words, "--out_dir", tmp_path / "cut")
    ends = [checkpoint.read(tmp_path / name).weights for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_grid_and_what_it_says(few, command, refused, tmp_path):
    words = ["grid", *few, "--methods", "[none, bias, bias>adapter]", "--rates", "{bias: [1e-2, 1e-3], other: [1e-3]}"]
    words += ["--seeds", "[1, 2]", "--templates", "[manual]", "--out_dir", tmp_path / "grid"]
    assert "7 runs" in command(*words, "--dry_run")
    said = command(*words)
    assert "[7/7]" in said
    assert "train - test" in said
    records = [r for r in read_records(tmp_path / "grid/records.jsonl") if r["split"] == "test"]
    assert len(records) == 7
    assert {(r["methods"], r["rate"], r["seed"]) for r in records} == {
        ("none", None, 1), *(("bias", rate, seed) for rate in (1e-2, 1e-3) for seed in (1, 2)),
        ("bias>adapter", 1e-3, 1), ("bias>adapter", 1e-3, 2),
    }  # fmt: skip
    before = (tmp_path / "grid/runs/manual_bias_lr-0.01_seed-1/run.json").stat().st_mtime_ns
    command(*words)
    assert (tmp_path / "grid/runs/manual_bias_lr-0.01_seed-1/run.json").stat().st_mtime_ns == before
    said = command("gather", "--runs", tmp_path / "grid", "--as_published", "--out_dir", tmp_path / "tables")
    assert "by what the rate was chosen" in said
    for name in ("scores", "gaps", "orders"):
        assert (tmp_path / "tables" / f"{name}.png").stat().st_size > 1000
    head = (tmp_path / "tables/scores.md").read_text(encoding="utf-8").splitlines()[0]
    assert head == "| task | template | none | bias | bias>adapter |"
    one = command("gather", "--runs", tmp_path / "grid", "--where", "methods=bias")
    assert "bias>adapter" not in one
    assert "give KEY=VALUE, with one of the keys task," in refused(
        "gather", "--runs", tmp_path / "grid", "--where", "method=bias"
    )
    assert "leaves no run" in refused("gather", "--runs", tmp_path / "grid", "--where", "methods=lora")


def test_a_template_shown(task, command, refused):
    said = command("template", "show", "--model", task.with_name("model"), "--task", task, "--prompt_length", 2, "--examples", 1)
    assert "template: *cls*prompt*sent_0*_it_was*mask*_.*sep+*" in said
    assert "negative -> dull (27), positive -> lovely (39)" in said
    assert "[CLS]|[P1]|[P2]|" in said
    assert ">>[MASK]<<" in said
    line = refused("template", "show", "--model", task.with_name("model"), "--task", task, "--template", "*cls**sent_0**maks*")
    assert "template character 15: unknown piece '*maks*'" in line
    line = refused(
        "template",
        "show",
        "--model",
        task.with_name("model"),
        "--task",
        task,
        "--label_words",
        "{negative: zzyzx, positive: dull}",
    )
    assert "label word 'zzyzx' of label 'negative' is" in line


def test_what_is_refused(few, refused, tmp_path):
    out = ("--out_dir", tmp_path / "out")
    assert "has stages; deltatune-combos sequence" in refused("run", "--methods", "bias>adapter", *few, *out)
    assert "2 rates for the 3 stages" in refused(
        "sequence", "--stages", "[bias, adapter, prompt]", "--rates", "[1, 2]", *few, *out
    )
    assert "count updates" in refused("sequence", "--stages", "[bias, adapter]", "--train.epochs", 1, *few, *out)
    assert "--rates has none for bias" in refused("grid", "--methods", "[bias]", "--rates", "{prompt: [1]}", *few, *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("methods", "count"), [("bias", [0, 0, 0]), ("adapter", [1, 1, 1]), ("bias+adapter", [1, 1, 0])])
def test_dropout_as_published_d4(few, command, tmp_path, monkeypatch, methods, count):
    from deltatune.core.delta import Tuned

    seen, plain = [], Tuned.forward

    def watch(self, batch):
        if torch.is_grad_enabled():
            seen.append(int(self.training))
        return plain(self, batch)

    monkeypatch.setattr(Tuned, "forward", watch)
    words = ["run", "--methods", methods, *few, "--train.steps", 3, "--train.eval_every", 2, "--as_published"]
    command(*words, "--out_dir", tmp_path / "run")
    assert seen == count


def test_stages_own_their_tensors():
    from deltatune.core import BackboneConfig, attach, load_backbone

    base = load_backbone(BackboneConfig(str(EXAMPLE), form="prompt", device="cpu"), num_labels=2)
    tuned = attach(base, *(Sizes().delta(name, in_template=True) for name in ("prompt", "bias", "adapter")))
    every = set(tuned.parameters_by_name())
    parts = [owned(tuned, (name,)) for name in ("prompt", "bias", "adapter")]
    assert parts[0] | parts[1] | parts[2] == every
    assert parts[1] & parts[2] == {name for name in parts[2] if name.endswith(".bias")}
    assert owned(tuned, ("prompt", "bias", "adapter")) == every
