"""The gradient of each example in one pass, against a pass for each."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import wrap
from deltatune.core.delta import Houlsby, LoRA, Prefix, attach
from deltatune.ensemble.gradients import _one_by_one, example_losses, example_norms
from deltatune.ensemble.modules import grouping

SIZES = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 2, "decoder_start_token_id": 0}


@pytest.mark.parametrize("config", [LoRA(rank=2), Houlsby(width=2), Prefix(length=2, width=2)], ids=["lora", "houlsby", "prefix"])
def test_example_norms_are_those_of_a_pass_for_each(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = attach(wrap(T5ForConditionalGeneration(T5Config(**SIZES))), config)
        tuned.load({name: torch.randn_like(tensor) * 0.3 for name, tensor in tuned.weights().items()})
        ids = torch.randint(2, 20, (3, 5))
    labels = torch.tensor([[3, 4, 1], [5, 1, -100], [1, -100, -100]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    group = grouping(tuned.backbone, "block")
    together = example_norms(tuned, batch, labels, tuned, group)
    apart = _one_by_one(tuned, batch, labels, tuned, group)
    assert set(together) == set(apart)
    for name, values in apart.items():
        torch.testing.assert_close(together[name], values, rtol=1e-4, atol=1e-7)
    assert example_losses(tuned(batch), labels).shape == (3,)
