"""Several deltas on one model, and deltas that become part of the base's own weights."""

from __future__ import annotations

import itertools

import pytest
import torch

from deltatune.core.delta import BitFit, Full, Head, Houlsby, LoRA, Modules, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError

FOUR = (LoRA(rank=2), SoftPrompt(length=3), BitFit(), Houlsby(width=3))
MERGEABLE = (LoRA, BitFit, Full, Modules, Head)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_several_deltas_share_a_model(tiny, name, batch, stir, size):
    backbone = tiny(name)
    tuned = attach(backbone, *FOUR[:size], head=False)
    weights = stir(tuned)
    with torch.no_grad():
        together = tuned(batch)
    tuned.detach()
    names = list(weights)
    assert len(set(names)) == len(names)
    found = []
    for config in FOUR[:size]:
        alone = attach(backbone, config, head=False)
        assert {key: w.shape for key, w in alone.weights().items()} == {key: weights[key].shape for key in alone.weights()}
        found += list(alone.weights())
        with torch.no_grad():  # every one of them acts
            alone.load({key: weights[key] for key in alone.weights()})
            assert not torch.allclose(alone(batch), together, atol=1e-4)
        alone.detach()
    assert found == names


def test_the_order_of_deltas_does_not_matter(tiny, name, batch, stir):
    backbone = tiny(name)
    weights, first = None, None
    for order in itertools.islice(itertools.permutations(FOUR), 0, None, 5):
        tuned = attach(backbone, *order)
        weights = weights or stir(tuned)
        tuned.load(weights)
        with torch.no_grad():
            logits = tuned(batch)
        first = logits if first is None else first
        torch.testing.assert_close(logits, first, atol=1e-5, rtol=0)
        tuned.detach()


def test_a_neighbour_at_its_start_changes_nothing(tiny, name, batch, stir):
    backbone = tiny(name)
    alone = attach(backbone, LoRA(rank=2), head=False)
    weights = stir(alone)
    with torch.no_grad():
        expected = alone(batch)
        alone.detach()
        union = attach(backbone, Houlsby(width=3, init_std=0.0), LoRA(rank=2), BitFit(), head=False)
        union.load({**union.weights(), **weights})
        torch.testing.assert_close(union(batch), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "configs_of_two", [(LoRA(rank=2), LoRA(rank=3)), (Full(), BitFit()), (Modules(("*orm*weight",)), Full())]
)
def test_two_deltas_that_claim_one_tensor_are_refused(tiny, configs_of_two):
    backbone = tiny("roberta-head")
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.model.modules())
    with pytest.raises(DeltatuneError, match="two deltas claim roberta"):
        attach(backbone, *configs_of_two)
    assert before == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.model.modules())


@pytest.mark.parametrize("order", [(BitFit(), Houlsby(width=3)), (Houlsby(width=3), BitFit())])
@pytest.mark.parametrize("family", ["roberta-head", "t5-text"])
def test_a_bias_acts_before_the_adapter_on_the_same_module(tiny, stir, family, order):
    backbone = tiny(family)
    path = next(backbone.sites.sublayers(backbone.model)).projection
    module = backbone.model.get_submodule(path)
    x = torch.randn(2, 3, module.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = module(x)
        weights = stir(attach(backbone, *order, head=False))
        h = plain + weights[f"{path}.bias"]
        down = h @ weights[f"{path}.houlsby_down.weight"].T + weights[f"{path}.houlsby_down.bias"]
        up = torch.nn.functional.silu(down) @ weights[f"{path}.houlsby_up.weight"].T + weights[f"{path}.houlsby_up.bias"]
        torch.testing.assert_close(module(x), h + up, atol=1e-6, rtol=0)


@pytest.mark.parametrize("placement", ["after_projection", "after_dropout", "after_norm"])
def test_where_an_adapter_stands(tiny, stir, placement):
    """Post-norm blocks: before the residual sum (twice the same without dropout) or on the stream after sum and norm."""
    backbone = tiny("bert-head")
    block = backbone.model.bert.encoder.layer[0].output
    x = torch.randn(1, 2, 24, generator=torch.Generator().manual_seed(0))
    residual = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        projected, plain = block.dense(x), block(x, residual)
        weights = stir(attach(backbone, Houlsby(width=3, sites=("ffn",), placement=placement), head=False))
        first = [w for key, w in weights.items() if "layer.0" in key]

        def adapter(h):
            down, b, up, c = first
            return h + torch.nn.functional.silu(h @ down.T + b) @ up.T + c

        expected = adapter(plain) if placement == "after_norm" else block.LayerNorm(adapter(projected) + residual)
        torch.testing.assert_close(block(x, residual), expected, atol=1e-6, rtol=0)


def test_an_adapter_after_the_norm_needs_a_post_norm_model(tiny):
    with pytest.raises(DeltatuneError, match=r"'after_norm' does not exist at encoder.block.0"):
        attach(tiny("t5-text"), Houlsby(placement="after_norm"))


def test_merged_values_give_the_same_logits(tiny, tiny_model, name, config, batch, stir):
    tuned = attach(tiny(name), config)
    stir(tuned)
    biases = name.startswith(("bert", "roberta"))
    if not isinstance(config, MERGEABLE) or (isinstance(config, BitFit) and not biases):
        with pytest.raises(DeltatuneError, match=r"^merge: .*; keep the run$"):
            [delta.merged(tuned.model) for delta in tuned.kinds()]
        return
    with torch.no_grad():
        expected = tuned(batch)
        merged = {key: value for delta in tuned.kinds() for key, value in delta.merged(tuned.model).items()}
    assert set(merged) <= set(tuned.model.state_dict())
    target = tiny(name)
    report = target.model.load_state_dict(merged, strict=False)
    assert not report.unexpected_keys
    with torch.no_grad():
        torch.testing.assert_close(attach(target, head=False)(batch), expected, atol=1e-5, rtol=0)


def test_lora_update_is_scaled_b_a(tiny, stir):
    """(alpha / r) B A, by hand on one map."""
    tuned = attach(tiny("bert-head"), LoRA(rank=2, alpha=6.0), head=False)
    weights = stir(tuned)
    path = "bert.encoder.layer.0.attention.self.query"
    base = tuned.model.get_parameter(f"{path}.weight")
    a, b = weights[f"{path}.lora_A.weight"], weights[f"{path}.lora_B.weight"]
    assert (a.shape, b.shape) == ((2, 16), (16, 2))
    merged = tuned.kinds()[0].merged(tuned.model)[f"{path}.weight"]
    torch.testing.assert_close(merged, base + 3.0 * b @ a, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: LoRA(rank=0), "lora.rank must be at least 1, got 0"),
        (lambda: LoRA(dropout=1.0), r"lora.dropout must be in \[0, 1\), got 1.0"),
        (lambda: LoRA(targets=()), "lora.targets is empty"),
        (lambda: LoRA(targets=("query", "value", "query")), "lora.targets names query 2 times; name each once"),
        (lambda: Houlsby(sites=("ffn", "ffn")), "houlsby.sites names ffn 2 times; name each once"),
        (lambda: Modules(("*.a", "*.a")), r"modules.patterns names \*.a 2 times; name each once"),
        (lambda: Houlsby(width=0), "houlsby.width must be at least 1, got 0"),
        (lambda: Houlsby(reduction=0), "houlsby.reduction must be at least 1, got 0"),
        (lambda: Houlsby(init_std=-1.0), "houlsby.init_std must not be negative, got -1.0"),
        (lambda: Houlsby(sites=()), "houlsby.sites is empty"),
        (lambda: Prefix(length=0), "prefix.length must be at least 1, got 0"),
        (lambda: Prefix(width=0), "prefix.width must be at least 1 or null, got 0"),
        (lambda: SoftPrompt(length=0), "soft_prompt.length must be at least 1, got 0"),
        (lambda: Modules(), "modules.patterns is empty"),
    ],
)
def test_settings_out_of_range(config, message):
    with pytest.raises(DeltatuneError, match=message):
        config()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LoRA(targets=("contract", "value", "query")), LoRA(targets=("query", "value", "contract"))),
        (Houlsby(sites=("ffn", "self")), Houlsby(sites=("self", "ffn"))),
        (Modules(("*.b", "*.a")), Modules(("*.a", "*.b"))),
    ],
)
def test_the_order_in_which_places_are_named_does_not_matter(one, other):
    assert one == other
    assert one.describe() == other.describe()


def test_the_order_of_targets_decides_no_initial_value(tiny):
    weights = [
        attach(tiny("roberta-head"), LoRA(rank=2, targets=targets), generator=torch.Generator().manual_seed(0)).weights()
        for targets in (("value", "query"), ("query", "value"))
    ]
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoRA(rank=17), "lora.rank must be between 1 and 16 at roberta.encoder.layer.0.attention.self.query, got 17"),
        (LoRA(targets=("querry",)), "unknown role 'querry'; choose from query, key"),
        (Modules(("*LayerNrom*",)), r"'\*LayerNrom\*' matches no parameter of the base; names look like roberta"),
        (Houlsby(sites=("cross",)), "houlsby.sites: .*cross"),
    ],
)
def test_settings_that_do_not_fit_the_backbone(tiny, config, message):
    with pytest.raises(DeltatuneError, match=message):
        attach(tiny("roberta-head"), config)
