"""Names and numbers of trainable parameters at full size (weights on the meta device), against all five papers."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from deltatune.core.backbone import untie, wrap
from deltatune.core.delta import BitFit, Full, Houlsby, LoRA, Prefix, SoftPrompt, attach
from deltatune.core.legacy import rename

ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
ROBERTA_SIZES = {
    "roberta-base": {},
    "roberta-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
T5_BASE = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
BUDGET = 1_105_920
PROMPT = 4
BUDGET_DELTAS = {
    "adapter": (Houlsby(width=12, bias=False), 120),
    "lora": (LoRA(rank=10, init="fan_rank"), 144),
    "prefix": (Prefix(length=120, width=24), 6),
}


def t5(config):
    with torch.device("meta"):
        return wrap(untie(T5ForConditionalGeneration(T5Config(feed_forward_proj="gated-gelu", **config))))


def classifier(labels):
    with torch.device("meta"):
        return wrap(RobertaForSequenceClassification(RobertaConfig(**ROBERTA, num_labels=labels)))


def masked_lm(config):
    with torch.device("meta"):
        return wrap(RobertaForMaskedLM(RobertaConfig(**config)), form="prompt")


def owned(backbone):
    """Parameters of the model, each shared tensor once."""
    return sum(parameter.numel() for parameter in backbone.model.parameters())


def count(tuned, ends=""):
    return sum(value.numel() for name, value in tuned.parameters_by_name().items() if name.endswith(ends))


@pytest.mark.parametrize("kind", BUDGET_DELTAS)
@pytest.mark.golden("ensemble", "checkpoint_layout.json")
@pytest.mark.golden("subspace", "flatten_layout.json")
def test_equal_budgets_on_t5_base(golden, kind):
    """Adapter 12, LoRA 10 and prefix 120 / 24 are the same number of scalars (modeconn, ensemble, subspace)."""
    config, tensors = BUDGET_DELTAS[kind]
    expected = golden.case("ensemble", "checkpoint_layout.json", "counts")["t5-v1_1-base"][kind]
    backbone = t5(expected["config"])
    assert expected["config"] == T5_BASE
    assert owned(backbone) == expected["frozen"] == 247_577_856
    tuned = attach(backbone, config)
    assert len(tuned.parameters_by_name()) == expected["n_tensors"] == tensors
    assert count(tuned) == expected["trainable"] == BUDGET
    table = golden.case("subspace", "flatten_layout.json", "t5_base")["tables"][kind]
    assert (len(tuned.parameters_by_name()), count(tuned)) == (table["tensors"], table["numel"])
    assert tuned.report()[0]["trainable"] == BUDGET
    assert owned(tuned.detach()) == expected["frozen"]


def test_further_published_sizes_on_t5_base():
    """The Pfeiffer variant, which crashed as published, the prefix of the option defaults, and full fine-tuning (modeconn)."""
    backbone = t5(T5_BASE)
    pfeiffer = attach(backbone, Houlsby(width=12, activation="relu", bias=False, sites=("ffn",)))
    assert (count(pfeiffer), len(pfeiffer.parameters_by_name())) == (442_368, 48)
    pfeiffer.detach()
    prefix = attach(backbone, Prefix(length=100, width=512))
    assert count(prefix) == 19_814_400
    prefix.detach()
    full = attach(backbone, Full())
    assert (count(full), len(full.parameters_by_name())) == (247_577_856, 282)


@pytest.mark.parametrize("kind", ["adapter", "lora", "prefix"])
@pytest.mark.golden("ensemble", "checkpoint_layout.json")
def test_names_and_shapes_of_published_checkpoints_as_ensemble(golden, kind):
    facts = golden.case("ensemble", "checkpoint_layout.json", "checkpoints")[kind]
    config = {
        "adapter": Houlsby(width=2, bias=False),
        "lora": LoRA(rank=2, init="fan_rank"),
        "prefix": Prefix(length=2, width=2),
    }[kind]
    tuned = attach(t5({"vocab_size": 8, "d_model": 4, "d_kv": 2, "d_ff": 6, "num_layers": 1, "num_heads": 2}), config)
    expected = rename({name: torch.empty(shape, device="meta") for name, shape in facts["parameters"].items()})
    shapes = {name: value.shape for name, value in tuned.parameters_by_name().items()}
    assert list(shapes) == list(expected)
    assert shapes == {name: value.shape for name, value in expected.items()}
    assert set(facts["trainable"]) == set(facts["parameters"])


@pytest.mark.parametrize("placement", ["after_norm", "after_projection"])
@pytest.mark.parametrize("labels", ["2", "13"])
@pytest.mark.golden("recyclable", "parameter_counts.json")
def test_adapters_and_head_of_roberta_base_as_recyclable_with_the_head_trained_d2(golden, labels, placement):
    """Published runs that started from an old adapter froze the head by accident; here it always trains."""
    facts = golden("recyclable", "parameter_counts.json")
    expected, backbone = facts["by_num_labels"][labels], classifier(int(labels))
    assert facts["backbone_with_head_excludes_adapters"]
    assert owned(backbone) == expected["backbone_with_head"]
    tuned = attach(backbone, Houlsby(width=facts["bottleneck"], activation="gelu_new", placement=placement))
    adapters, head = tuned.report()
    assert adapters["trainable"] == expected["adapters"] == facts["per_adapter_module"] * facts["adapter_modules"]
    assert adapters["sites"] == facts["adapter_modules"]
    assert head["trainable"] == expected["head"]
    assert count(tuned) == expected["trainable_adapter_tuning"]
    assert count(tuned) - expected["head"] == expected["trainable_as_run_after_loading_an_old_adapter"]
    assert facts["same_for_both_placements"]


def test_classifier_of_three_labels_as_modeconn():
    tuned = attach(classifier(3), Houlsby(width=24, activation="gelu_new", placement="after_norm"))
    assert [row["trainable"] for row in tuned.report()] == [903_744, 592_899]
    assert count(tuned) == 1_496_643


def combination(backbone, stage, prompt_length=10):
    """The union of the methods that a comma list of combos names."""
    configs = {"prompt": SoftPrompt(prompt_length, "template"), "bias": BitFit(), "adapter": Houlsby(placement="after_dropout")}
    return attach(backbone, *(configs[method] for method in stage.split(",")))


@pytest.mark.parametrize("model", ROBERTA_SIZES)
@pytest.mark.golden("combos", "trainable.json")
def test_combinations_on_real_sizes_as_combos(golden, model):
    facts = golden.case("combos", "trainable.json", "reference_models")[model]
    backbone = masked_lm(ROBERTA | ROBERTA_SIZES[model])
    assert owned(backbone) == facts["n_pretrained"]
    prompt = facts["prompt"]["n_trainable"]
    assert owned(backbone) + prompt == facts["n_total_without_adapters_with_prompt"]
    for stage in ("prompt", "bias", "prompt,bias", "adapter", "prompt,adapter", "bias,adapter", "prompt,bias,adapter"):
        tuned = combination(backbone, stage)
        assert count(tuned) == facts[stage]["n_trainable"]
        # The reference owns a prompt table in every combination.
        new = sum(row["trainable"] for row in tuned.report() if row["kind"] == "Houlsby") + prompt
        assert owned(backbone) + new == facts[stage]["n_total"]
        tuned.detach()
    both = combination(backbone, "bias,adapter")
    assert count(both, ends=".bias") == facts["bias stage when adapters are present"]["n_trainable"]


@pytest.mark.golden("combos", "trainable.json")
def test_percentages_of_the_paper(golden):
    """Table of combos: trainable share of all parameters of roberta-large, inserted ones included."""
    facts = golden.case("combos", "trainable.json", "reference_models")["roberta-large"]
    published = {
        "prompt": (0.003, 10_240),
        "bias": (0.09, 323_673),
        "adapter": (1.75, 6_343_680),
        "prompt,bias": (0.09, 333_913),
        "prompt,adapter": (1.76, 6_353_920),
        "bias,adapter": (1.84, 6_667_353),
        "prompt,bias,adapter": (1.85, 6_677_593),
    }
    backbone = masked_lm(ROBERTA | ROBERTA_SIZES["roberta-large"])
    total = owned(backbone) + published["prompt"][1]
    for stage, (percent, trainable) in published.items():
        tuned = combination(backbone, stage)
        assert count(tuned) == trainable == facts[stage]["n_trainable"]
        everything = total + (published["adapter"][1] if "adapter" in stage else 0)
        assert round(100 * trainable / everything, 3 if stage == "prompt" else 2) == percent
        tuned.detach()


@pytest.mark.golden("combos", "trainable.json")
def test_trainable_names_of_every_combination_as_combos(golden):
    """Adapters that are only present add nothing to a stage, except their biases to a stage that trains biases."""
    facts = golden("combos", "trainable.json")
    assert (facts["prompt_num"], facts["reduction_factor"]) == (PROMPT, Houlsby().reduction)
    backbone = masked_lm(facts["config"] | {"pad_token_id": 1})
    for case in facts["combinations"]:
        if case["training_params"] == "all":
            assert case["trainable"] == []  # defect D6: the published default trained nothing
            continue
        check_names(backbone, case["training_params"], case["adapters_added"], case)
    for order in facts["sequential_orders"]:
        for stage in order["stages"]:
            check_names(backbone, stage["stage"], True, stage)


def check_names(backbone, stage, adapters, case):
    beside = adapters and "adapter" not in stage
    tuned = combination(backbone, f"{stage},adapter" if beside else stage, prompt_length=PROMPT)
    names = set(tuned.parameters_by_name())
    if beside:
        names = {name for name in names if "houlsby" not in name or ("bias" in stage and name.endswith(".bias"))}
    published = rename(dict.fromkeys(case["trainable"], torch.zeros(())))
    assert names == {name.replace("lm_head.bias", "lm_head.decoder.bias") for name in published}
    assert sum(tuned.parameters_by_name()[name].numel() for name in names) == case["n_trainable"]
    if "n_total" in case:
        table = PROMPT * backbone.model.config.hidden_size
        bottlenecks = sum(value.numel() for name, value in tuned.parameters_by_name().items() if "houlsby" in name)
        assert owned(backbone) + table + bottlenecks == case["n_total"]
    tuned.detach()


@pytest.mark.golden("combos", "trainable.json")
def test_all_trains_everything_d6(golden):
    """The published default `all` trained nothing; full fine-tuning trains every parameter of the base."""
    facts = golden("combos", "trainable.json")
    backbone = masked_lm(facts["config"] | {"pad_token_id": 1})
    prompt = PROMPT * facts["config"]["hidden_size"]
    assert count(attach(backbone, Full())) + prompt == facts["combinations"][0]["n_total"]
