"""The text-to-text branch: a tiny T5 on a task of the world."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core import world
from deltatune.core.files import read_json
from deltatune.core.run import read_records
from deltatune.modeconn.cli import main
from deltatune.modeconn.confidence import confidences
from deltatune.modeconn.endpoints import open_end

TASK = "world/sentiment-0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of adapters on a T5 of two layers."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = world.tokenizer("text")
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 2, "num_layers": 2, "feed_forward_proj": "gated-gelu"}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(
            T5Config(vocab_size=len(tokenizer), decoder_start_token_id=tokenizer.pad_token_id, **sizes, **ids)
        )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for seed in (0, 1):
        words = [
            "tune",
            "--model",
            folder / "model",
            "--task",
            TASK,
            "--delta",
            "Houlsby",
            "--delta.width",
            2,
            "--train.steps",
            2,
        ]
        words += [
            "--train.batch_size",
            4,
            "--init_seed",
            seed,
            "--max_train",
            8,
            "--max_dev",
            4,
            "--max_test",
            4,
            "--device",
            "cpu",
        ]
        words += ["--train.snapshots", 1, "--lr", "1e-2"]
        assert main(list(map(str, [*words, "--out_dir", folder / str(seed)]))) == 0
    return folder


def test_a_walk_on_texts(runs, command, tmp_path):
    command("walk", "--left", runs / "0", "--right", runs / "1", "--points", 2, "--out_dir", tmp_path / "out", "--device", "cpu")
    for place, run in ((0.0, "0"), (1.0, "1")):
        for split, numbers in read_json(runs / run / "run.json")["scores"].items():
            [row] = [r for r in read_records(tmp_path / "out") if (r["x"], r["split"]) == (place, split)]
            assert (row["loss"], row["value"]) == (pytest.approx(numbers["loss"], rel=1e-5), numbers["value"])


def test_mix_by_layer_on_texts(runs, command, tmp_path):
    words = ("mix", "--left", runs / "0", "--right", runs / "1", "--by", "layer", "--lrs", "[0.1]", "--train.steps", 1)
    command(*words, "--out_dir", tmp_path / "out", "--device", "cpu")
    assert len(read_json(tmp_path / "out/run.json")["share_of_left"]) == 2 * (2 + 3)


@pytest.mark.parametrize("condition", ["gold", "greedy"])
def test_confidences_of_all_answers_add_up_to_one(runs, condition):
    from dataclasses import replace

    opened = open_end(runs / "0")
    task, backbone = opened.task_choice().load(), opened.backbone(device="cpu")
    tuned, form = opened.attach(backbone), opened.format(backbone, task)
    total = [0.0] * len(task.dev)
    for label in task.labels:
        examples = [replace(example, label=label) for example in task.dev]
        found = confidences(tuned, form, examples, form.features(examples), condition)
        assert all(0 < value < 1 for value in found)
        total = [a + b for a, b in zip(total, found, strict=True)]
    assert total == pytest.approx([1.0] * len(total))


def test_a_data_map_of_texts(runs, command):
    command("cartography", "record", "--run", runs / "0", "--device", "cpu")
    found = read_json(runs / "0/cartography.json")
    assert len(found) == 8
    assert all(len(item["confidence"]) == 2 for item in found.values())
