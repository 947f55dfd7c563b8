"""Records of architectures: those built in, and those a user writes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import yaml

from deltatune.core.backbone import wrap
from deltatune.core.delta import BitFit, Full, Houlsby, LoRA, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.sites import SITES, Sites, Stack, SubLayer, head_width, read_sites, sites_of


def as_yaml(sites):
    """A record as a user would write it."""
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(sites))))  # JSON has lists where Python has tuples


@pytest.mark.parametrize("key", SITES)
def test_a_record_survives_yaml(tmp_path, key):
    path = tmp_path / "sites.yaml"
    path.write_text(as_yaml(SITES[key]), encoding="utf-8")
    assert read_sites(path) == SITES[key]


def test_every_path_of_a_record_is_in_the_model(tiny, name):
    backbone = tiny(name)
    modules = dict(backbone.model.named_modules())
    layers = list(backbone.sites.sublayers(backbone.model))
    for layer in layers:
        paths = [layer.projection, layer.dropout, layer.residual, layer.attention, layer.query, layer.key, layer.value]
        assert {path for path in [*paths, *layer.expand] if path} <= set(modules)
    assert isinstance(modules[backbone.sites.embedding], torch.nn.Embedding)
    kinds = [layer.kind for layer in layers]
    assert kinds == (["self", "ffn"] * 2 + ["self", "cross", "ffn"] * 2 if name.endswith("text") else ["self", "ffn"] * 2)
    if name.endswith("prompt"):
        assert backbone.sites.lm_head in modules
    assert head_width(backbone.model.config) == {"t5": 6, "t5v11": 6, "llama": 4}.get(name.partition("-")[0], 8)


def test_which_record_an_architecture_has(tiny):
    assert tiny("t5-text").sites is SITES["t5"]
    assert tiny("t5v11-text").sites is SITES["t5-gated"]
    assert tiny("roberta-head").sites is tiny("roberta-prompt").sites is SITES["roberta"]
    llama = tiny("llama-head")
    with pytest.raises(DeltatuneError, match=r"architecture 'llama' has no record \(known: bert, .*\); describe it with --sites"):
        sites_of(llama.model.config)
    with pytest.raises(DeltatuneError, match="'llama' has no record"):
        wrap(llama.model)


def test_what_belongs_to_a_head():
    sites = SITES["bert"]
    assert sites.is_head("classifier")
    assert sites.is_head("classifier.weight")
    assert sites.is_head("bert.pooler.dense.bias")
    assert not sites.is_head("classifier2.weight")
    assert not sites.is_head("bert.encoder.layer.0.output.dense.weight")


def test_roles_of_linear_maps():
    attention, ffn = SITES["t5-gated"].stacks[0].sublayers
    assert attention.linears("query") == ("layer.0.SelfAttention.q",)
    assert attention.linears("output") == ("layer.0.SelfAttention.o",)
    assert attention.linears("contract") == ffn.linears("output") == ffn.linears("query") == ()
    assert ffn.linears("expand") == ("layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1")
    with pytest.raises(DeltatuneError, match="unknown role 'o'; choose from query, key, value, output, expand, contract"):
        attention.linears("o")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("", "is empty"),
        ("- 1", "expected `key: value` lines, got a list"),
        ("stacks: []\nhead: [h]\nstacks: []", "line 3: the key 'stacks' stands there twice"),
        ("embedding: e", "not a sites record .*'stacks'"),
        ("stacks: []", "not a sites record .*'embedding'"),
        ("stacks: []\nembedding: e\nheads: [h]", "not a sites record .*'heads'"),
        ("stacks: []\nembedding: e\nhead: score", r"head is the text 'score' and must be a list; write \[score\]"),
        ("stacks: [{path: m, block: l.0, sublayers: []}]\nembedding: e", r"block 'l.0' of m has no {i} for the number"),
        ("stacks: [{path: m, sublayers: []}]\nembedding: e", "not a sites record .*'block'"),
        ("stacks: [{path: m, block: 'l.{i}', sublayers: [{kind: self}]}]\nembedding: e", "not a sites record .*'projection'"),
        (
            "stacks: [{path: m, block: 'l.{i}', sublayers: [{kind: mlp, projection: p}]}]\nembedding: e",
            "unknown kind 'mlp' of a sub-layer; choose from self, cross, ffn",
        ),
        (
            "stacks: [{path: m, block: 'l.{i}', sublayers: [{kind: ffn, projection: p, expand: up}]}]\nembedding: e",
            r"expand is the text 'up' and must be a list; write \[up\]",
        ),
    ],
)
def test_records_that_are_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DeltatuneError, match=message) as caught:
        read_sites(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_once(tmp_path):
    with pytest.raises(DeltatuneError, match=r"^no such file: .*/none.yaml$"):
        read_sites(tmp_path / "none.yaml")


def test_a_record_that_does_not_fit_the_model(tiny_model):
    def wrong(stack="model", block="layers.{i}", embedding="model.embed_tokens", **changed):
        paths = {"projection": "self_attn.o_proj", "attention": "self_attn", "query": "self_attn.q_proj"} | changed
        layer = SubLayer(kind="self", key="self_attn.k_proj", value="self_attn.v_proj", **paths)
        return wrap(tiny_model("llama-head"), sites=Sites((Stack(stack, block, (layer,)),), embedding, head=("score",)))

    with pytest.raises(DeltatuneError, match=r"sites: LlamaForSequenceClassification has no module model.blocks.0"):
        attach(wrong(block="blocks.{i}"), LoRA(rank=2))
    with pytest.raises(DeltatuneError, match=r"lora.targets: .* has no module model.layers.0.self_attn.query; correct the sites"):
        attach(wrong(query="self_attn.query"), LoRA(rank=2))
    with pytest.raises(DeltatuneError, match="names no map for query, output"):
        attach(wrap(tiny_model("llama-head"), sites=Sites((), "model.embed_tokens")), LoRA(rank=2, targets=("query", "output")))
    with pytest.raises(DeltatuneError, match=r"a LlamaRMSNorm is not a torch.nn.Linear; name another target"):
        attach(wrong(query="input_layernorm"), LoRA(rank=2))
    with pytest.raises(DeltatuneError, match=r"prefix: .* has no module model.layers.0.attn"):
        attach(wrong(attention="attn"), Prefix(length=2))
    with pytest.raises(DeltatuneError, match=r"houlsby.placement: .* has no module model.layers.0.drop"):
        attach(wrong(dropout="drop"), Houlsby(placement="after_dropout"))
    with pytest.raises(DeltatuneError, match="names no self-attention in model"):
        attach(wrong(attention=None), Prefix(length=2))
    with pytest.raises(DeltatuneError, match=r"soft_prompt: .* has no module model.words"):
        attach(wrong(embedding="model.words"), SoftPrompt())
    with pytest.raises(DeltatuneError, match=r"model.norm is a LlamaRMSNorm, not an embedding"):
        attach(wrong(embedding="model.norm"), SoftPrompt())
    with pytest.raises(DeltatuneError, match="names no lm_head; use another --form"):
        attach(wrap(tiny_model("llama-head"), sites=Sites((), "model.embed_tokens"), form="prompt"))


LLAMA = {
    "lora": (LoRA(rank=2, targets=("query", "value", "expand")), "model.layers.1.mlp.up_proj.lora_B.weight", (24, 2)),
    "houlsby": (Houlsby(width=3), "model.layers.1.mlp.down_proj.houlsby_up.weight", (16, 3)),
    "prefix": (Prefix(length=5, width=4), "model.prefix_up.weight", (2 * 2 * 2 * 4, 4)),  # layers, k and v, kv heads, head width
    "bitfit": (BitFit(), "model.layers.0.self_attn.k_proj.bias", (8,)),
    "soft-prompt": (SoftPrompt(length=4), "model.embed_tokens.soft_prompt", (4, 16)),
    "full": (Full(), "model.norm.weight", (16,)),
}


@pytest.mark.parametrize("kind", LLAMA)
def test_a_users_record_serves_every_delta(tiny, batch_for, stir, loss_of, kind):
    """The names and shapes on a decoder-only model with grouped key heads; each delta trains."""
    config, path, shape = LLAMA[kind]
    tuned, batch = attach(tiny("llama-head"), config), batch_for("llama-head")
    assert tuned.weights()[path].shape == shape
    assert tuned.head_names == ["score.weight"]
    stir(tuned)
    parameters = tuned.parameters_by_name()
    loss = loss_of(tuned(batch), batch["labels"])
    loss.backward()
    with torch.no_grad():
        for parameter in parameters.values():
            parameter -= 0.05 * parameter.grad
        assert loss_of(tuned(batch), batch["labels"]) < loss
