"""Loading models: folders, heads, the digest of a base, and the traps of transformers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from deltatune.core.backbone import BackboneConfig, base_tensors, untie, wrap
from deltatune.core.delta import Full, Head, LoRA, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.loading import load_backbone


def as_bin(path):
    """Turn the safetensors file of a folder into the older format."""
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    return path


def load(path, form="auto", num_labels=None, **settings):
    return load_backbone(BackboneConfig(str(path), form=form, device="cpu", **settings), num_labels)


def config_of(name, folders, llama_sites):
    sites = llama_sites if name.startswith("llama") else None
    return BackboneConfig(str(folders[name]), form=name.partition("-")[2], device="cpu", sites=sites)


def test_a_folder_loads_as_it_was_saved(folders, llama_sites, tiny, name, batch, tmp_path):
    backbone = load_backbone(config_of(name, folders, llama_sites), num_labels=3)
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert backbone.fresh == frozenset()
    assert (backbone.form, backbone.device) == (name.partition("-")[2], torch.device("cpu"))
    assert backbone.name == str(folders[name])
    assert backbone.digest == tiny(name).digest
    with torch.no_grad():
        expected = attach(tiny(name))(batch)
        assert torch.equal(attach(backbone)(batch), expected)
    older = as_bin(shutil.copytree(folders[name], tmp_path / "older"))
    again = load_backbone(
        BackboneConfig(str(older), form=backbone.form, device="cpu", sites=config_of(name, folders, llama_sites).sites), 3
    )
    assert again.digest == backbone.digest
    with torch.no_grad():
        assert torch.equal(attach(again)(batch), expected)


def test_the_form_follows_from_the_architecture(folders):
    assert load(folders["t5-text"]).form == "text"
    assert load(folders["roberta-head"], num_labels=3).form == "head"


def test_the_tokenizer_and_its_mask(folders):
    backbone = load(folders["roberta-prompt"], form="prompt")
    assert backbone.tokenizer.convert_ids_to_tokens(backbone.mask_id) == "<mask>"
    assert backbone.tokenizer("the film")["input_ids"][0] == 0
    with pytest.raises(DeltatuneError, match="its tokenizer has no mask token; the form prompt needs one"):
        _ = load(folders["t5-text"]).mask_id


def test_a_model_without_a_padding_token_pads_with_its_end(folder, llama_sites):
    path = folder("llama-head")
    values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(values | {"pad_token_id": None}), encoding="utf-8")
    assert load(path, num_labels=3, sites=llama_sites).model.config.pad_token_id == 2


# Heads


def test_a_new_head_has_the_width_asked_for_and_comes_from_the_generator_alone(folders, tiny_model, tmp_path):
    """Equal for different bases of one shape, whatever torch's global stream holds."""
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = tiny_model("bert-prompt")
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        path = shutil.copytree(folders["bert-prompt"], tmp_path / str(seed))
        model.save_pretrained(path)
        backbone = load(path, num_labels=5)
        assert backbone.model.config.num_labels == 5
        assert backbone.fresh == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
        heads.append((backbone.digest, attach(backbone, generator=torch.Generator().manual_seed(0)).weights()))
    (first_digest, first), (second_digest, second) = heads
    assert first_digest != second_digest
    assert first["classifier.weight"].shape == (5, 16)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not first["classifier.bias"].any()
    assert first["classifier.weight"].std() == pytest.approx(0.2, rel=0.3)  # the model's initializer_range
    backbone = load(tmp_path / "1", num_labels=5)
    narrow = attach(backbone, Head(init_std=1e-3), generator=torch.Generator().manual_seed(0)).weights()
    torch.testing.assert_close(narrow["classifier.weight"] * 200, first["classifier.weight"])


def test_the_head_is_the_same_beside_every_delta(folders):
    heads = []
    for configs in ((), (LoRA(rank=2),), (Full(), Head())):
        tuned = attach(load(folders["roberta-prompt"], form="head", num_labels=2), *configs)
        heads.append({key: tuned.weights()[key] for key in tuned.head_names})
    assert all(torch.equal(head[key], heads[0][key]) for head in heads for key in heads[0])


def test_a_trained_head_is_kept_at_its_width_and_replaced_at_another(folders):
    stored = load_file(folders["roberta-head"] / "model.safetensors")
    same = load(folders["roberta-head"], num_labels=3)
    assert same.fresh == frozenset()
    assert all(torch.equal(w, stored[key]) for key, w in attach(same).weights().items())
    other = load(folders["roberta-head"], num_labels=4)
    assert other.fresh == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    weights = attach(other).weights()
    assert weights["classifier.out_proj.weight"].shape == (4, 16)
    assert torch.equal(weights["classifier.dense.weight"], stored["classifier.dense.weight"])
    assert load(folders["roberta-head"]).model.config.num_labels == 3  # as stored, if nobody asks


# The digest of a base


def test_the_digest_is_that_of_the_base_alone(folders, folder):
    head = load(folders["bert-prompt"], form="head", num_labels=2)
    assert head.digest == load(folders["bert-prompt"], form="prompt").digest
    assert head.digest == load(folders["bert-prompt"], form="head", num_labels=7).digest
    assert len(head.digest) == 64
    attach(head, LoRA(rank=2))
    assert load(folders["bert-prompt"], form="prompt").digest == wrap(head.model).digest
    names = [name for name, _ in base_tensors(head.model, head.sites)]
    assert not any("pooler" in name or "classifier" in name or "position_ids" in name for name in names)


def test_the_digest_counts_values_not_their_storage(folder):
    """Half precision that holds the values exactly is the same base; values that were rounded are another."""
    path = folder("roberta-prompt")
    tensors = load_file(path / "model.safetensors")
    digests = []
    halved = {key: t.half() for key, t in tensors.items()}
    for stored in (tensors, halved, {key: t.float() for key, t in halved.items()}):
        save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
        digests.append(load(path, form="prompt").digest)
    assert digests[0] != digests[1] == digests[2]
    changed = dict(halved)
    key = "roberta.encoder.layer.1.output.dense.bias"
    changed[key] = torch.nextafter(halved[key], torch.tensor(torch.inf, dtype=torch.half))
    save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
    assert load(path, form="prompt").digest != digests[1]


def test_the_digest_counts_a_tied_table_once(tiny):
    names = [name for name, _ in base_tensors(tiny("t5-text").model, tiny("t5-text").sites)]
    assert [name for name in names if "embed_tokens" in name or name in ("shared.weight", "lm_head.weight")] == ["shared.weight"]
    untied = tiny("t5v11-text")
    names = [name for name, _ in base_tensors(untied.model, untied.sites)]
    assert {"shared.weight", "lm_head.weight"} <= set(names)


# Traps of transformers


def test_t5_from_a_configuration_is_tied_until_untied(tiny_model, batch_for, tmp_path):
    """`tie_word_embeddings=False` alone does not untie; `untie` does, and a saved model stays so."""
    model = tiny_model("t5-text")
    config = transformers.T5Config(**{**model.config.to_dict(), "tie_word_embeddings": False})
    model = transformers.T5ForConditionalGeneration(config).eval()
    assert model.lm_head.weight is model.shared.weight
    assert untie(model) is model
    assert model.lm_head.weight is not model.shared.weight
    assert torch.equal(model.lm_head.weight, model.shared.weight)
    model.lm_head.weight.data += 0.1 * torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
    batch = batch_for("t5-text")
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True)
        assert torch.equal(states.logits, model.lm_head(states.decoder_hidden_states[-1]))  # no rescaling
        tuned = attach(wrap(model), Full())
        tuned.load({key: w + 0.01 for key, w in tuned.weights().items()})
        expected = tuned(batch)
        merged = {key: w for delta in tuned.kinds() for key, w in delta.merged(model).items()}
        tuned.detach()
        model.load_state_dict(merged, strict=False)
        model.save_pretrained(tmp_path / "merged")
        reloaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
        assert reloaded.lm_head.weight is not reloaded.shared.weight
        torch.testing.assert_close(attach(wrap(reloaded))(batch), expected, atol=1e-6, rtol=0)


def test_t5_v1_is_tied_and_rescaled(tiny, batch_for):
    backbone = tiny("t5-text")
    model = backbone.model
    assert model.lm_head.weight is model.shared.weight is model.encoder.embed_tokens.weight
    with torch.no_grad():
        states = model(**batch_for("t5-text"), output_hidden_states=True)
        scaled = model.lm_head(states.decoder_hidden_states[-1] * 16**-0.5)
        torch.testing.assert_close(states.logits, scaled, atol=1e-6, rtol=0)


def test_the_longest_input(tiny):
    assert tiny("roberta-head").max_length == 38  # 40 rows, of which padding_idx + 1 = 2 are never used
    assert tiny("bert-head").max_length == 40
    assert tiny("llama-head").max_length == 64
    assert tiny("t5-text").max_length is None
    roberta = tiny("roberta-head")
    roberta.model.config.max_position_embeddings = 514
    assert roberta.max_length == 512


def test_the_longest_input_is_accepted_and_one_more_is_not(tiny, batch_for):
    tuned = attach(tiny("roberta-head"))
    with torch.no_grad():
        assert tuned(batch_for("roberta-head", (38,))).shape == (1, 3)
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch raises for a row that the table lacks
            tuned(batch_for("roberta-head", (39,)))


def test_position_id_buffers_are_no_weights(folder, tiny_model):
    """Older checkpoints store them; they are neither missed nor counted."""
    path = folder("bert-prompt")
    tensors = load_file(path / "model.safetensors")
    digest = load(path, form="prompt").digest
    tensors["bert.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    backbone = load(path, form="prompt")
    assert backbone.digest == digest
    assert not any("position_ids" in key for key in attach(backbone, Full()).weights())
