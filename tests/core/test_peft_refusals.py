"""What PEFT and deltatune cannot say of each other is refused in one line."""

from __future__ import annotations

import json
import re

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from deltatune.core import checkpoint
from deltatune.core.delta import BitFit, Full, Head, Houlsby, LoRA, Modules, Prefix, SoftPrompt
from deltatune.core.errors import DeltatuneError
from deltatune.core.peft_format import export, import_adapter

# PEFT warns of models without a name, and transformers of padding it cannot see.
pytestmark = pytest.mark.filterwarnings("ignore")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


REFUSED_EXPORTS = {
    "Houlsby": ("roberta-head", (Houlsby(width=3),), "no bottleneck adapters"),
    "BitFit": ("roberta-head", (BitFit(),), "bias vectors alone"),
    "Full": ("roberta-head", (Full(),), "not changes of the base"),
    "Modules": ("roberta-head", (Modules(("*LayerNorm*",)),), "not changes of the base"),
    "a head": ("roberta-head", (Head(),), "a task head alone"),
    "several": ("roberta-head", (LoRA(rank=2), SoftPrompt(2)), "this is LoRA and SoftPrompt"),
    "after the first": ("roberta-head", (SoftPrompt(2),), "stands behind the first token"),
    "template": ("roberta-prompt", (SoftPrompt(2, position="template"),), "stands where the template says"),
    "masked": ("roberta-prompt", (SoftPrompt(2, position="start"),), "not form 'prompt'"),
    "encoder prefix": ("t5-text", (Prefix(2, 3),), "a part in the encoder"),
    "positions": ("roberta-head", (Prefix(2, 3),), "--delta.positions after"),
}


@pytest.mark.parametrize("case", REFUSED_EXPORTS)
def test_what_peft_does_otherwise_is_refused_in_one_line(case, saved_as, tmp_path):
    name, configs, reason = REFUSED_EXPORTS[case]
    folder, tuned = saved_as(name, *configs)
    with pytest.raises(DeltatuneError, match=re.escape(reason)) as error:
        export(folder, tmp_path / "out", tuned.backbone)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_prefix_needs_its_model_and_its_base(saved_as, tiny, tmp_path):
    folder, tuned = saved_as("llama-head", Prefix(2, 3, positions="after"))
    with pytest.raises(DeltatuneError, match="give --model"):
        export(folder, tmp_path / "out")
    backbone = tuned.detach()
    del backbone.__dict__["digest"]
    backbone.model.model.norm.weight.data += 1
    with pytest.raises(DeltatuneError, match="--other_base"):
        export(folder, tmp_path / "out", backbone)


def test_an_export_replaces_an_earlier_one_and_nothing_else(saved_as, tmp_path):
    folder, tuned = saved_as("roberta-head", LoRA(rank=2))
    saved = checkpoint.read(folder)
    for _ in range(2):
        assert export(saved, tmp_path / "out") == tmp_path / "out"
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(DeltatuneError, match="holds other files"):
        export(saved, tmp_path / "out", tuned.backbone)
    saved.weights["classifier.dense.bias"][0] = float("nan")
    with pytest.raises(DeltatuneError, match="nan or infinity"):
        export(saved, tmp_path / "new")


OPTIONS = {
    "use_dora": True,
    "bias": "all",
    "rank_pattern": {"query": 4},
    "alpha_pattern": {"query": 4},
    "fan_in_fan_out": True,
    "lora_bias": True,
    "layer_replication": [[0, 2]],
    "init_lora_weights": "pissa",
    "an_option_of_the_future": 1,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_without_a_counterpart_is_named(option, tiny, tiny_model, tmp_path):
    get_peft_model(tiny_model("roberta-head"), LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path)
    edit(tmp_path / "adapter_config.json", **{option: OPTIONS[option]})
    with pytest.raises(DeltatuneError, match=f"the option {option} = .* has no counterpart"):
        import_adapter(tmp_path, tiny("roberta-head"))


REFUSED_ADAPTERS = {
    "pooler": ("bert-head", lambda: LoraConfig(r=2, target_modules="all-linear"), "target_modules: bert.pooler.dense is none of"),
    "embedding": ("roberta-head", lambda: LoraConfig(r=2, target_modules=["word_embeddings"]), "word_embeddings"),
    "some layers": (
        "roberta-head",
        lambda: LoraConfig(r=2, target_modules=["query"], layers_to_transform=[1]),
        "is not; it is all or none here",
    ),
    "norms": ("t5-text", lambda: LoraConfig(r=2, target_modules=["q"], modules_to_save=["final_layer_norm"]), "modules_to_save"),
    "T5 prefix": ("t5-text", lambda: PrefixTuningConfig(num_virtual_tokens=2, task_type="SEQ_2_SEQ_LM"), "part in the encoder"),
}


@pytest.mark.parametrize("case", REFUSED_ADAPTERS)
def test_an_adapter_that_cannot_be_said_here_is_refused_in_one_line(case, tiny, tiny_model, tmp_path):
    name, config, reason = REFUSED_ADAPTERS[case]
    get_peft_model(tiny_model(name), config()).save_pretrained(tmp_path)
    backbone = tiny(name)
    with pytest.raises(DeltatuneError, match=re.escape(reason)) as error:
        import_adapter(tmp_path, backbone)
    assert "\n" not in str(error.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.model.modules())


def test_folders_of_others_are_named(tiny, saved_as, tmp_path):
    backbone = tiny("roberta-head")
    with pytest.raises(DeltatuneError, match="no such file"):
        import_adapter(tmp_path, backbone)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"config": {"reduction_factor": 16}, "model_class": "RobertaModel"}), encoding="utf-8")
    with pytest.raises(DeltatuneError, match="`adapters` library"):
        import_adapter(tmp_path, backbone)
    edit(config, peft_type="IA3")
    with pytest.raises(DeltatuneError, match="peft_type IA3 has no counterpart"):
        import_adapter(tmp_path, backbone)
    edit(config, peft_type="LORA", config=None, model_class=None)
    with pytest.raises(DeltatuneError, match="no r, which PEFT writes"):
        import_adapter(tmp_path, backbone)
    edit(config, r=2, lora_alpha=4)
    with pytest.raises(DeltatuneError, match=r"neither adapter_model\.safetensors nor adapter_model\.bin"):
        import_adapter(tmp_path, backbone)
    folder, _ = saved_as("roberta-head", LoRA(rank=2))
    with pytest.raises(DeltatuneError, match="a delta folder of deltatune already"):
        import_adapter(folder, backbone)


def test_an_adapter_of_another_model_or_size_is_refused_with_its_names(tiny, tiny_model, tmp_path):
    get_peft_model(tiny_model("roberta-head"), LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")).save_pretrained(
        tmp_path
    )
    with pytest.raises(DeltatuneError, match=r"target_modules: roberta\.encoder\.layer\.0\.attention\.self\.query is none of"):
        import_adapter(tmp_path, tiny("bert-head"))
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"base_model.model.classifier.out_proj.bias": torch.zeros(5)}, file)
    with pytest.raises(DeltatuneError, match=r"classifier\.out_proj\.bias is \(3,\) here and \(5,\) there"):
        import_adapter(tmp_path, tiny("roberta-head"))


def test_prompts_with_missing_rows_or_features_are_refused(tiny, tiny_model, tmp_path):
    config = PrefixTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS")
    get_peft_model(tiny_model("llama-head"), config).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    for broken, reason in ((tensors["prompt_embeddings"][:2], "of 3 rows"), (tensors["prompt_embeddings"][:, :-1], "do not fit")):
        save_file(tensors | {"prompt_embeddings": broken.contiguous()}, file)
        with pytest.raises(DeltatuneError, match=reason):
            import_adapter(tmp_path, tiny("llama-head"))
