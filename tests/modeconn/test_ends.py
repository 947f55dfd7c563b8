"""Walks between ends of every kind: adapters of PEFT, whole models, deltas of different pre-training steps."""

from __future__ import annotations

import pytest
import torch

from deltatune.core.files import read_json
from deltatune.core.run import read_records

CPU = ("--device", "cpu")


def scores(folder):
    return read_json(folder / "run.json")["scores"]


def test_distance_and_adapters_that_peft_wrote(bench, command, tmp_path):
    from deltatune.core import peft_format

    assert "cosine" in command("distance", "--left", bench / "runs/full-0", "--right", bench / "runs/full-1", "--by", "block")
    for number in (0, 1):
        peft_format.export(bench / f"runs/lora-{number}", tmp_path / f"peft-{number}")
    ends = (
        "--left",
        tmp_path / "peft-0",
        "--right",
        tmp_path / "peft-1",
        "--model",
        bench / "model",
        "--task",
        f"[{bench / 'task.yaml'}]",
    )
    command("walk", *ends, "--points", 2, "--split", "dev", "--out_dir", tmp_path / "out", *CPU)
    losses = [row["loss"] for row in read_records(tmp_path / "out")]
    assert losses == pytest.approx([scores(bench / f"runs/lora-{n}")["dev"]["loss"] for n in (0, 1)], rel=1e-4)


def test_whole_models_of_hugging_face(bench, command, tmp_path):
    from deltatune.core.cli import main

    for number in (0, 1):
        assert main(["merge", "--run", str(bench / f"runs/full-{number}"), "--out_dir", str(tmp_path / f"model-{number}")]) == 0
    ends = ("--left", tmp_path / "model-0", "--right", tmp_path / "model-1", "--task", f"[{bench / 'task.yaml'}]")
    command("walk", *ends, "--points", 2, "--split", "dev", "--out_dir", tmp_path / "out", *CPU)
    losses = [row["loss"] for row in read_records(tmp_path / "out")]
    assert losses == pytest.approx([scores(bench / f"runs/full-{n}")["dev"]["loss"] for n in (0, 1)], rel=1e-4)


def test_deltas_of_different_pretraining_steps_take_their_bases_along(bench, command, tmp_path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained(bench / "model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(tmp_path / "later")
    AutoTokenizer.from_pretrained(bench / "model").save_pretrained(tmp_path / "later")
    words = ("tune", "--model", tmp_path / "later", "--task", bench / "task.yaml", "--delta", "LoRA", "--delta.rank", 2)
    command(*words, "--train.steps", 4, "--train.batch_size", 8, "--out_dir", tmp_path / "run", *CPU)
    ends = bench / "runs/lora-0", tmp_path / "run"
    words = ("walk", "--left", ends[0], "--right", ends[1], "--points", 2, "--split", "dev", "--out_dir", tmp_path / "out")
    command(*words, *CPU)
    losses = [row["loss"] for row in read_records(tmp_path / "out")]
    assert losses == pytest.approx([scores(run)["dev"]["loss"] for run in ends], rel=1e-5)


def test_adapters_that_the_library_peft_saved(bench, command, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from deltatune.core.data import load_task

    task, tokenizer = load_task(str(bench / "task.yaml"), bench), AutoTokenizer.from_pretrained(bench / "model")
    texts = tokenizer([example.texts[0] for example in task.dev], padding=True, return_tensors="pt")
    gold = torch.tensor([task.labels.index(example.label) for example in task.dev])
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = AutoModelForSequenceClassification.from_pretrained(bench / "model", num_labels=2, dtype=torch.float32)
        base.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        for number in (0, 1):
            again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
            lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False)
            model = peft.get_peft_model(again, lora).eval()
            model.save_pretrained(tmp_path / f"peft-{number}")
            with torch.no_grad():
                losses.append(float(torch.nn.functional.cross_entropy(model(**texts).logits, gold)))
    ends = ("--left", tmp_path / "peft-0", "--right", tmp_path / "peft-1", "--task", f"[{bench / 'task.yaml'}]")
    command("walk", *ends, "--points", 3, "--split", "dev", "--out_dir", tmp_path / "out", *CPU)
    found = [row["loss"] for row in read_records(tmp_path / "out")]
    assert (found[0], found[2]) == (pytest.approx(losses[0], rel=1e-4), pytest.approx(losses[1], rel=1e-4))
