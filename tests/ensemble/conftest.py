"""A tiny text-to-text model and a tiny encoder, with sources on tasks of the generated world."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core import world
from deltatune.core.backbone import untie
from deltatune.ensemble import cli

EXAMPLE = Path(__file__).parents[2] / "examples/reviews"
TASKS = ("world/sentiment-0", "world/sentiment-1", "world/topic-0")
FEW = (
    "--device",
    "cpu",
    "--train.steps",
    "3",
    "--train.batch_size",
    "8",
    "--max_length",
    "64",
    "--max_dev",
    "12",
    "--max_test",
    "12",
)
LOOK = ("--device", "cpu", "--max_length", "64", "--max_train", "16", "--max_dev", "12", "--max_test", "12")


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with `t5` and `encoder`."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = world.tokenizer("text")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=2, feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=8, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, tie_word_embeddings=False,
        )  # fmt: skip
        untie(T5ForConditionalGeneration(config)).save_pretrained(folder / "t5")
    tokenizer.save_pretrained(folder / "t5")
    shutil.copytree(EXAMPLE / "model", folder / "encoder")
    return folder


@pytest.fixture(scope="session")
def bench(models, tmp_path_factory) -> Path:
    """A folder with sources: `t5/{lora,adapter,prefix}` and `encoder/lora`, one run for each of `TASKS`."""
    folder = tmp_path_factory.mktemp("bench")
    kinds = {
        "t5/lora": ("LoRA", "--delta.rank", "2"),
        "t5/adapter": ("Houlsby", "--delta.width", "2", "--delta.bias", "false"),
        "t5/prefix": ("Prefix", "--delta.length", "2", "--delta.width", "2"),
        "encoder/lora": ("LoRA", "--delta.rank", "2"),
    }
    for name, words in kinds.items():
        own = ["tune-all", "--tasks", f"[{', '.join(TASKS)}]", "--model", models / name.partition("/")[0], "--delta", *words]
        assert cli.main(list(map(str, [*own, "--out_dir", folder / name, "--max_train", 16, "--lr", "3e-2", *FEW]))) == 0
    return folder
