"""Exchange with the real PEFT in both directions: logits, layouts, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from deltatune.core import checkpoint
from deltatune.core.delta import LoRA, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.peft_format import export, import_adapter, num_labels

ROLES = ("query", "key", "value", "output", "expand", "contract")
EXCHANGED = {
    "roberta-head": ("lora", "prompt", "prefix"),
    "bert-head": ("lora", "prompt", "prefix"),
    "llama-head": ("lora", "prompt", "prefix"),
    "t5-text": ("lora", "prompt"),
    "t5v11-text": ("lora", "prompt"),
    "roberta-prompt": ("lora",),
}
PAIRS = [(name, kind) for name, kinds in EXCHANGED.items() for kind in kinds]
CONFIGS = {
    "lora": LoRA(rank=2, alpha=6.0, targets=ROLES, init="fan_rank"),
    "prompt": SoftPrompt(length=3, position="start"),
    "prefix": Prefix(length=3, width=4, positions="after"),
}
TASKS = {"head": "SEQ_CLS", "text": "SEQ_2_SEQ_LM", "prompt": None}


# PEFT warns of models without a name, and transformers of padding it cannot see.
pytestmark = pytest.mark.filterwarnings("ignore")


def lengths_for(name, kind):
    # A decoder that classifies finds the last token by the padding in the ids, which PEFT's prompt tuning does not pass on.
    return (5, 5, 5) if (name, kind) == ("llama-head", "prompt") else (7, 4, 6)


def logits_of_peft(model, batch):
    """PEFT's logits where a `Tuned` has them; skips where PEFT itself cannot compute them."""
    form_is_text = (batch["labels"].dim()) == 2
    try:
        with torch.no_grad():
            logits = model(**{k: v for k, v in batch.items() if form_is_text or k != "labels"}).logits
    except ValueError as error:
        if "past key values" not in str(error):
            raise
        # PEFT up to 0.21.2 looks for the name that the cache had before transformers 5.24.
        pytest.skip("this version of PEFT finds no cache in this version of transformers")
    return logits[batch["input_ids"] == 4] if logits.dim() == 3 and not form_is_text else logits


def shake(model):
    """Values for everything that PEFT trains."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_peft_computes_the_same_logits(name, kind, saved_as, tiny_model, batch_for, tmp_path):
    folder, tuned = saved_as(name, CONFIGS[kind])
    batch = batch_for(name, lengths_for(name, kind))
    out = export(folder, tmp_path / "out", tuned.backbone)
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    model = PeftModel.from_pretrained(tiny_model(name), out).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits_of_peft(model, batch), tuned(batch), atol=1e-5, rtol=1e-5)
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["task_type"] == TASKS[name.partition("-")[2]]


@pytest.mark.parametrize("name", ["roberta-head", "bert-head", "llama-head", "t5-text"])
def test_a_lora_delta_folder_is_itself_an_adapter_of_peft(name, saved_as, tiny_model, batch_for):
    folder, tuned = saved_as(name, LoRA(rank=2, targets=("query", "contract")))
    model = PeftModel.from_pretrained(tiny_model(name), folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits_of_peft(model, batch_for(name)), tuned(batch_for(name)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_export_and_import_give_the_values_back(name, kind, saved_as, tmp_path, batch_for):
    folder, tuned = saved_as(name, CONFIGS[kind])
    batch, before = batch_for(name), tuned.weights()
    with torch.no_grad():
        expected = tuned(batch)
    backbone = tuned.detach()
    saved = import_adapter(export(folder, tmp_path / "out", backbone), backbone)
    assert saved.base == checkpoint.base_record(backbone)
    assert saved.head == tuple(tuned.head_names)
    if kind != "prefix":  # the reparametrisation of a prefix is folded in
        assert list(saved.weights) == list(before)
        assert all(torch.equal(saved.weights[key], before[key]) for key in before)
    checkpoint.write(tmp_path / "back", saved)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.load(tmp_path / "back", backbone)(batch), expected, atol=1e-5, rtol=1e-5)


PEFT_CONFIGS = {
    "list": ("roberta-head", lambda: LoraConfig(r=2, lora_alpha=5, target_modules=["query", "value"], task_type="SEQ_CLS")),
    "regex": (
        "bert-head",
        lambda: LoraConfig(r=3, target_modules=r".*layer\.\d+\.(intermediate|output)\.dense", task_type="SEQ_CLS"),
    ),
    "all-linear": ("llama-head", lambda: LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS", lora_dropout=0.1)),
    "rslora": (
        "t5-text",
        lambda: LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"),
    ),
    "gated": ("t5v11-text", lambda: LoraConfig(r=2, target_modules=["wi_0", "wi_1", "o"], init_lora_weights="gaussian")),
    "no head": ("roberta-head", lambda: LoraConfig(r=2, target_modules=["key"])),
    "masked": ("roberta-prompt", lambda: LoraConfig(r=2, target_modules=["key"])),
    "prompt": ("bert-head", lambda: PromptTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS")),
    "prompt of two parts": ("t5-text", lambda: PromptTuningConfig(num_virtual_tokens=3, task_type="SEQ_2_SEQ_LM")),
    "prefix": ("llama-head", lambda: PrefixTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS")),
    "prefix of RoBERTa": ("roberta-head", lambda: PrefixTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS")),
    "prefix of BERT": ("bert-head", lambda: PrefixTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS")),
    "projected prefix": (
        "llama-head",
        lambda: PrefixTuningConfig(num_virtual_tokens=2, prefix_projection=True, task_type="SEQ_CLS"),
    ),
}


@pytest.mark.parametrize("case", PEFT_CONFIGS)
def test_adapters_made_by_peft_compute_the_same_here(case, tiny, tiny_model, batch_for, tmp_path):
    name, config = PEFT_CONFIGS[case]
    model = shake(get_peft_model(tiny_model(name), config()))
    model.save_pretrained(tmp_path / "peft")
    batch = batch_for(name)
    saved = import_adapter(tmp_path / "peft", tiny(name))
    checkpoint.write(tmp_path / "delta", saved)
    with torch.no_grad():
        logits = checkpoint.load(tmp_path / "delta", tiny(name))(batch)
    torch.testing.assert_close(logits, logits_of_peft(model, batch), atol=1e-5, rtol=1e-5)
    assert saved.about["imported"]["peft_type"] == config().peft_type


def test_targets_become_roles_in_the_order_of_the_config(tiny, tiny_model, tmp_path):
    get_peft_model(tiny_model("t5v11-text"), LoraConfig(r=2, target_modules=["wo", "wi_1", "wi_0", "q"])).save_pretrained(
        tmp_path
    )
    saved = import_adapter(tmp_path, tiny("t5v11-text"))
    assert saved.configs == (LoRA(rank=2, alpha=8.0, targets=("query", "expand", "contract")),)
    assert list(saved.weights) == list(attach(tiny("t5v11-text"), *saved.configs).weights())


def test_rank_stabilised_scaling_is_an_alpha(tiny, tiny_model, tmp_path):
    config = LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=["query"])
    get_peft_model(tiny_model("roberta-head"), config).save_pretrained(tmp_path)
    [lora] = import_adapter(tmp_path, tiny("roberta-head")).configs
    assert lora.alpha / lora.rank == pytest.approx(3 / 2)  # alpha / sqrt(r)


def test_the_pooler_that_peft_leaves_alone_is_the_base_s(tiny, tiny_model, tmp_path):
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    shake(get_peft_model(tiny_model("bert-head"), config)).save_pretrained(tmp_path)
    saved = import_adapter(tmp_path, tiny("bert-head"))
    pooler = tiny_model("bert-head").bert.pooler.dense
    assert torch.equal(saved.weights["bert.pooler.dense.weight"], pooler.weight)
    assert not torch.equal(saved.weights["classifier.weight"], tiny_model("bert-head").classifier.weight)
    backbone = tiny("bert-head", fresh=frozenset({"bert.pooler.dense.weight", "bert.pooler.dense.bias"}))
    with pytest.raises(DeltatuneError, match=r"a task head without bert\.pooler\.dense\.weight"):
        import_adapter(tmp_path, backbone)


def test_the_base_that_an_adapter_names_is_recorded(tiny, tiny_model, tmp_path):
    get_peft_model(tiny_model("roberta-head"), LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path)
    edit(tmp_path / "adapter_config.json", base_model_name_or_path="roberta-base")
    about = import_adapter(tmp_path, tiny("roberta-head")).about["imported"]
    assert (about["base_model_name_or_path"], about["other_base_name"]) == ("roberta-base", True)
    edit(tmp_path / "adapter_config.json", base_model_name_or_path="roberta-head")
    assert not import_adapter(tmp_path, tiny("roberta-head")).about["imported"]["other_base_name"]


def test_a_pickled_adapter_is_read_weights_only(tiny, tiny_model, batch_for, tmp_path):
    model = shake(get_peft_model(tiny_model("roberta-head"), LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")))
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "adapter_model.bin").is_file()
    saved = import_adapter(tmp_path, tiny("roberta-head"))
    with torch.no_grad():
        logits = checkpoint.attach_saved(saved, tiny("roberta-head"))(batch_for("roberta-head"))
    torch.testing.assert_close(logits, logits_of_peft(model, batch_for("roberta-head")), atol=1e-5, rtol=1e-5)
    torch.save({"x": SideEffect(tmp_path / "ran")}, tmp_path / "adapter_model.bin")
    with pytest.raises(DeltatuneError, match="would run code"):
        import_adapter(tmp_path, tiny("roberta-head"))
    assert not (tmp_path / "ran").exists()


class SideEffect:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


@pytest.mark.parametrize(("name", "classes"), [("roberta-head", 3), ("bert-head", 3), ("llama-head", 3), ("t5-text", None)])
def test_number_of_classes_of_an_adapter(name, classes, saved_as, tmp_path):
    folder, tuned = saved_as(name, LoRA(rank=2))
    assert num_labels(export(folder, tmp_path / "out", tuned.backbone)) == classes
    torch.save(tuned.weights(), tmp_path / "published.pt")
    assert num_labels(tmp_path / "published.pt") == classes
