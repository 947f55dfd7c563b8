"""Forward passes, losses and greedy answers of T5 with every delta against the reference vectors of three papers."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import Backbone, untie, wrap
from deltatune.core.delta import Houlsby, LoRA, Prefix, attach, forward_with
from deltatune.core.legacy import infer_config, rename
from deltatune.core.weights import flatten, layout, unflatten

SIZES = {
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def build(config: dict, tensors: dict[str, torch.Tensor]) -> Backbone:
    model = untie(T5ForConditionalGeneration(T5Config(**SIZES, **config)))
    # The old library also stored the two aliases of the shared embedding.
    report = model.load_state_dict(tensors, strict=False)
    assert not report.unexpected_keys
    assert {key for key in report.missing_keys if not key.endswith("embed_tokens.weight")} == set()
    return wrap(model)


def tensors_under(archive, prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): torch.tensor(archive[key]) for key in archive.files if key.startswith(prefix)}


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def encoder_state(tuned, batch):
    states = {}
    handle = tuned.model.get_encoder().register_forward_hook(lambda m, a, out: states.update(last=out.last_hidden_state))
    with torch.no_grad():
        tuned(batch)
    handle.remove()
    return states["last"]


def check(tuned, batch, archive, out, atol=1e-4):
    """Logits, loss, encoder state and greedy ids of one variant; the padded positions of the labels are not compared."""
    with torch.no_grad():
        logits = tuned(batch)
    real = batch["labels"] != -100
    expected = torch.tensor(archive[f"{out}/logits"])
    torch.testing.assert_close(logits[real], expected[real], atol=atol, rtol=1e-4)
    return float(loss_of(logits, batch["labels"]))


def generated(tuned, batch, length):
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    settings = {"max_length": length, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    cached = tuned.generate(inputs, use_cache=True, **settings)
    assert torch.equal(cached, tuned.generate(inputs, use_cache=False, **settings))
    return torch.nn.functional.pad(cached, (0, length - cached.shape[1]))


def attach_published(backbone, tensors):
    weights = rename(tensors)
    config = infer_config(weights)
    tuned = attach(backbone, config)
    tuned.load({name: weights[name] for name in tuned.parameters_by_name()})
    assert len(weights) == len(tuned.parameters_by_name())
    return tuned


def modeconn_backbone(golden):
    archive, meta = golden("modeconn", "tiny_t5.npz"), golden("modeconn", "tiny_t5.json")
    config = {k: v for k, v in meta["config"].items() if k not in SIZES}
    return build(config, tensors_under(archive, "base/")), archive, meta


@pytest.mark.parametrize("kind", ["base", "adapter", "lora", "prefix"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_modeconn_tiny_t5(golden, kind, attention):
    backbone, archive, meta = modeconn_backbone(golden)
    backbone.model.set_attn_implementation(attention)
    batch = tensors_under(archive, "in/")
    tuned = attach(backbone) if kind == "base" else attach_published(backbone, tensors_under(archive, f"{kind}/"))
    assert sum(p.numel() for p in tuned.parameters_by_name().values()) == meta["results"][kind]["extra_count"]
    assert check(tuned, batch, archive, f"out/{kind}") == pytest.approx(meta["results"][kind]["loss"], abs=1e-5)
    torch.testing.assert_close(encoder_state(tuned, batch), torch.tensor(archive[f"out/{kind}/encoder"]), atol=1e-4, rtol=1e-4)
    expected = torch.tensor(archive[f"out/{kind}/generated"])
    assert torch.equal(generated(tuned, batch, meta["generation_max_length"])[:, : expected.shape[1]], expected)


def ensemble_backbone(archive):
    size = json.loads(str(archive["meta"]))["size"]
    config = {"vocab_size": size["vocab"], "d_model": size["d_model"], "d_kv": size["d_kv"], "d_ff": size["d_ff"]}
    config |= {"num_heads": size["heads"], "num_layers": size["layers"], "relative_attention_num_buckets": 8}
    return build(config | {"dropout_rate": 0.0}, tensors_under(archive, "base/"))


def block_outputs(tuned, batch, stack):
    states = []
    blocks = tuned.model.get_submodule(stack).block
    handles = [block.register_forward_hook(lambda m, a, out: states.append(out[0])) for block in blocks]
    with torch.no_grad():
        tuned(batch)
    for handle in handles:
        handle.remove()
    return torch.stack(states)


@pytest.mark.parametrize("kind", ["none", "adapter", "lora", "prefix"])
def test_ensemble_model_forward(golden, kind):
    archive = golden("ensemble", "model_forward.npz")
    meta = json.loads(str(archive["meta"]))
    backbone, batch = ensemble_backbone(archive), tensors_under(archive, "batch/")
    if kind == "none":
        tuned = attach(backbone)
    else:
        weights = rename(tensors_under(archive, f"delta/{kind}/"))
        config = infer_config(weights)
        if kind == "lora":
            config = LoRA(rank=meta["delta"]["lora_r"], alpha=meta["delta"]["lora_alpha"])
        tuned = attach(backbone, config)
        tuned.load({name: weights[name] for name in tuned.parameters_by_name()})
    assert check(tuned, batch, archive, f"out/{kind}") == pytest.approx(float(archive[f"out/{kind}/loss"]), abs=1e-5)
    last = torch.tensor(archive[f"out/{kind}/encoder_last_hidden_state"])
    torch.testing.assert_close(encoder_state(tuned, batch), last, atol=1e-4, rtol=1e-4)
    for stack, real in (("encoder", batch["attention_mask"] == 1), ("decoder", batch["labels"] != -100)):
        expected = torch.tensor(archive[f"out/{kind}/{stack}_block_outputs"])
        torch.testing.assert_close(block_outputs(tuned, batch, stack)[:, real], expected[:, real], atol=1e-4, rtol=1e-4)
    expected = torch.tensor(archive[f"out/{kind}/greedy_ids"])
    assert torch.equal(generated(tuned, batch, meta["max_length"])[:, : expected.shape[1]], expected)


def subspace_config(kind, size):
    if kind == "adapter":
        return Houlsby(width=size["a"], bias=False)
    return LoRA(rank=size["r"], alpha=size["alpha"]) if kind == "lora" else Prefix(length=size["pnum"], width=size["pr"])


def subspace_backbone(golden):
    archive, size = golden("subspace", "t5_forward.npz"), golden("subspace", "flatten_layout.json")["config"]
    config = {"vocab_size": size["vocab"], "d_model": size["d_model"], "d_kv": size["d_kv"], "d_ff": size["d_ff"]}
    config |= {"num_heads": size["heads"], "num_layers": size["L"], "relative_attention_num_buckets": size["buckets"]}
    return build(config, tensors_under(archive, "base/")), archive, size


@pytest.mark.parametrize("kind", ["adapter", "lora", "prefix"])
def test_subspace_flat_delta(golden, kind):
    backbone, archive, size = subspace_backbone(golden)
    batch = {k: torch.tensor(archive[f"in/{k}"]) for k in ("input_ids", "attention_mask", "labels", "decoder_attention_mask")}
    tuned = attach(backbone, subspace_config(kind, size))
    flat = torch.tensor(archive[f"in/flat_{kind}"], requires_grad=True)
    logits = forward_with(tuned, unflatten(flat, tuned.weights(), input_major=True))(batch)
    real = batch["labels"] != -100
    torch.testing.assert_close(logits[real], torch.tensor(archive[f"out/{kind}/logits"])[real], atol=5e-5, rtol=1e-5)
    loss = loss_of(logits, batch["labels"])
    assert float(loss.detach()) == pytest.approx(float(archive[f"out/{kind}/loss"]), abs=2e-5)
    loss.backward()
    torch.testing.assert_close(flat.grad, torch.tensor(archive[f"out/{kind}/dloss_dflat"]), atol=1e-6, rtol=1e-3)
    tuned.load(unflatten(flat.detach(), tuned.weights(), input_major=True))
    state = torch.tensor(archive[f"out/{kind}/encoder_last_hidden_state"])
    torch.testing.assert_close(encoder_state(tuned, batch), state, atol=2e-5, rtol=1e-5)
    expected = torch.tensor(archive[f"out/{kind}/generated"])
    assert torch.equal(generated(tuned, batch, 9), expected)
    assert torch.equal(flatten(tuned.weights(), input_major=True), flat.detach())


def test_subspace_untouched_backbone(golden):
    backbone, archive, _ = subspace_backbone(golden)
    batch = {k: torch.tensor(archive[f"in/{k}"]) for k in ("input_ids", "attention_mask", "labels", "decoder_attention_mask")}
    tuned = attach(backbone, LoRA(rank=5))
    assert check(tuned, batch, archive, "out/backbone", atol=5e-5) == pytest.approx(float(archive["out/backbone/loss"]), abs=2e-5)


@pytest.mark.parametrize("kind", ["adapter", "lora", "prefix"])
def test_flatten_layout(golden, kind):
    """The table of offsets of a tiny model and of T5-base (weights on the meta device)."""
    vectors = golden("subspace", "flatten_layout.json")
    size = vectors["config"]
    small = T5Config(
        **SIZES,
        vocab_size=size["vocab"],
        d_model=size["d_model"],
        d_kv=size["d_kv"],
        d_ff=size["d_ff"],
        num_heads=2,
        num_layers=2,
    )
    base = T5Config(**SIZES, vocab_size=32128, d_model=768, d_kv=64, d_ff=2048, num_heads=12, num_layers=12)
    base_size = {"a": 12, "r": 10, "alpha": 16, "pnum": 120, "pr": 24}
    base_tables = {name: table["rows"] for name, table in vectors["t5_base"]["tables"].items()}
    for config, sizes, table in ((small, size, vectors["tables"]), (base, base_size, base_tables)):
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config)
        weights = attach(wrap(model), subspace_config(kind, sizes)).parameters_by_name()
        expected = {name: torch.empty(shape, device="meta") for name, shape, _, _ in table[kind]}
        rows = layout(weights, input_major=True)
        assert [row.name for row in rows] == list(rename(expected))
        assert rows[-1].end == (vectors["D"] if config is small else 1_105_920)
        assert [(row.start, row.end) for row in rows] == [(start, end) for *_, start, end in table[kind]]
        shapes = [row.shape[::-1] if row.transposed else row.shape for row in rows]
        assert shapes == [tuple(shape) for _, shape, _, _ in table[kind]]
