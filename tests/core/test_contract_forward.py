"""What the forward pass of any delta on any backbone depends on, and what it does not."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from deltatune.core.delta import LoRA, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError


def compared(name, batch, logits):
    """The logits that mean something: at real label positions where there are several."""
    return (
        [row[mask] for row, mask in zip(logits, batch["labels"] != -100, strict=True)] if name.endswith("-text") else list(logits)
    )


def row_alone(batch, row):
    """One example without padding; labels keep their -100."""
    length = int(batch["attention_mask"][row].sum())
    alone = {key: tensor[row : row + 1, :length] for key, tensor in batch.items() if key != "labels"}
    return alone | {"labels": batch["labels"][row : row + 1]}


def test_padding_and_batch_order_do_not_matter(name, tuned, batch, stir):
    stir(tuned)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        together = compared(name, batch, tuned(batch))
        shuffled_batch = {key: tensor[order] for key, tensor in batch.items()}
        shuffled = compared(name, shuffled_batch, tuned(shuffled_batch))
        wide = {key: torch.nn.functional.pad(t, (0, 3)) for key, t in batch.items() if key != "labels"}
        pad = tuned.model.config.pad_token_id
        wide["input_ids"] = wide["input_ids"].masked_fill(wide["attention_mask"] == 0, pad)
        padded = compared(name, batch, tuned(wide | {"labels": batch["labels"]}))
        for row, logits in enumerate(together):
            torch.testing.assert_close(shuffled[order.tolist().index(row)], logits, atol=1e-5, rtol=0)
            torch.testing.assert_close(padded[row], logits, atol=1e-5, rtol=0)
            alone = row_alone(batch, row)
            torch.testing.assert_close(compared(name, alone, tuned(alone))[0], logits, atol=1e-5, rtol=0)


def test_a_deep_copy_is_independent(tuned, batch, stir, loss_of):
    stir(tuned)
    loss_of(tuned(batch), batch["labels"]).backward()  # a pass under way must not be in the way
    twin = copy.deepcopy(tuned)
    with torch.no_grad():
        before = tuned(batch)
        assert torch.equal(twin(batch), before)
        twin.load({key: w + 0.3 for key, w in twin.weights().items()})
        assert not torch.equal(twin(batch), before)
        assert torch.equal(tuned(batch), before)
        twin.detach()
        assert torch.equal(tuned(batch), before)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.model.modules())
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in tuned.parameters()}


def test_a_pickled_copy_computes_the_same(tuned, batch, stir):
    stir(tuned)
    with torch.no_grad():
        before = tuned(batch)
        assert torch.equal(pickle.loads(pickle.dumps(tuned))(batch), before)


def test_no_dropout_in_evaluation_and_some_in_training(name, config, tuned, batch, stir):
    stir(tuned)
    with torch.no_grad():
        first = tuned(batch)
        assert torch.equal(tuned(batch), first)
        tuned.train()
        torch.manual_seed(0)
        noisy = tuned(batch)
        if not name.startswith("llama") or isinstance(
            config, LoRA
        ):  # this Llama drops attention only, which may hide in few tokens
            assert not torch.equal(noisy, first)
        tuned.eval()
        assert torch.equal(tuned(batch), first)


def test_lora_dropout_acts_on_the_update_only(tiny, batch_for):
    backbone, batch = tiny("llama-head"), batch_for("llama-head")
    tuned = attach(backbone, LoRA(rank=2, dropout=0.5))
    with torch.no_grad():
        expected = tuned(batch)
        tuned.deltas.train()
        assert torch.equal(tuned(batch), expected)  # B is still 0


def test_soft_prompt_positions_are_ids(tiny, batch_for):
    """Rows stand where the configuration says, or where a template put them; both say the same."""
    backbone, batch = tiny("roberta-prompt"), batch_for("roberta-prompt", (6, 6))
    tuned = attach(backbone, SoftPrompt(length=2, position="after_first"))
    ids = batch["input_ids"]
    rows = torch.tensor([[-1, -2]]).expand(2, -1)
    placed = {"input_ids": torch.cat([ids[:, :1], rows, ids[:, 1:]], dim=1), "attention_mask": torch.ones(2, 8).long()}
    with torch.no_grad():
        expected = tuned(batch)
        assert torch.equal(tuned(placed), expected)
        table, prompt = backbone.model.get_input_embeddings(), tuned.weights()[f"{backbone.sites.embedding}.soft_prompt"]
        tuned.detach()
        table.weight[7:9] = prompt
        words = placed | {"input_ids": placed["input_ids"].where(placed["input_ids"] >= 0, 6 - placed["input_ids"])}
        others = [i for i in range(expected.shape[1]) if i not in (7, 8)]  # the table is that of the vocabulary scores too
        torch.testing.assert_close(attach(backbone)(words)[:, others], expected[:, others], atol=1e-6, rtol=0)


def test_a_prompt_without_a_mask_token_is_refused(tiny, batch_for):
    batch = batch_for("bert-prompt")
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == 4, 5)
    with pytest.raises(DeltatuneError, match="no mask token; the template"):
        attach(tiny("bert-prompt"))(batch)


@pytest.mark.parametrize(
    "config", [None, Prefix(length=3, width=4), Prefix(length=2, width=None, layout="split"), SoftPrompt(3), LoRA(2)]
)
@pytest.mark.parametrize("family", ["t5-text", "t5v11-text", "llama-causal"])
def test_cached_decoding_equals_uncached(tiny, batch_for, stir, family, config):
    if family == "llama-causal" and isinstance(config, SoftPrompt):
        pytest.skip("the prompt of a decoder-only model is part of what it continues; the ids would be negative")
    backbone, batch = tiny(family), batch_for(family, (5, 5))
    tuned = attach(backbone, *([config] if config else []), head=False)
    stir(tuned, std=0.5)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "output_logits": True, "return_dict_in_generate": True}
    if family == "t5-text":
        inputs = {key: batch_for(family, (5, 3))[key] for key in inputs}
    cached = tuned.generate(inputs, use_cache=True, **settings)
    plain = tuned.generate(inputs, use_cache=False, **settings)
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["t5-text", "llama-causal"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_prefix_is_seen_by_all_and_tokens_by_later_ones_only(tiny, batch_for, stir, family, attention, masked):
    """Causal with a prefix, whatever attention function runs and whether or not it is given a mask."""
    backbone, batch = tiny(family), batch_for(family, (6, 6))
    backbone.model.set_attn_implementation(attention)
    tuned = attach(backbone, Prefix(length=3, width=None), head=False)
    stir(tuned, std=0.5)
    if not masked:
        del batch["attention_mask"]
    key = "labels" if family == "t5-text" else "input_ids"
    batch["labels"] = batch["labels"].clamp(min=2)
    changed = {**batch, key: batch[key].clone()}
    changed[key][:, 3] = 9
    first = 4 if key == "labels" else 3  # labels reach the decoder one position later
    with torch.no_grad():
        before, after = tuned(batch), tuned(changed)
        torch.testing.assert_close(after[:, :first], before[:, :first], atol=1e-6, rtol=0)
        assert not torch.allclose(after[:, first:], before[:, first:], atol=1e-4)
        tuned.load({name: w + 1 for name, w in tuned.weights().items()})
        assert (tuned(batch) - before).abs().amax(dim=-1).min() > 1e-4


@pytest.mark.parametrize("family", ["t5-text", "llama-causal", "roberta-head"])
def test_attention_functions_agree_on_a_prefix(tiny, batch_for, stir, family):
    results = []
    for attention in ("eager", "sdpa"):
        backbone = tiny(family)
        backbone.model.set_attn_implementation(attention)
        tuned = attach(backbone, Prefix(length=3, width=4), head=False)
        stir(tuned, std=0.5)
        with torch.no_grad():
            results.append(compared(family, batch_for(family), tuned(batch_for(family))))
    mask = batch_for(family)["attention_mask"].bool()
    for row, (eager, sdpa) in enumerate(zip(*results, strict=True)):
        real = mask[row] if family == "llama-causal" else ...
        torch.testing.assert_close(eager[real], sdpa[real], atol=1e-5, rtol=0)
