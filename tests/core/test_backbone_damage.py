"""Models that are not there, series of checkpoints, and damaged or harmful folders: one line, and nothing is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltatune.core.backbone import BackboneConfig, wrap
from deltatune.core.errors import DeltatuneError
from deltatune.core.loading import load_backbone, pick_device


def as_bin(path):
    """Turn the safetensors file of a folder into the older format."""
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    return path


def edit(path, **changed):
    """Change entries of a JSON file; None takes an entry out."""
    values = json.loads(path.read_text(encoding="utf-8")) | changed
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


def load(path, form="auto", num_labels=None, **settings):
    return load_backbone(BackboneConfig(str(path), form=form, device="cpu", **settings), num_labels)


def test_a_series_of_checkpoints(folder, tmp_path):
    root = tmp_path / "series"
    for step in (20, 3, 100):
        folder("bert-head", f"series/ckpt_{step}")
    (root / "ckpt_last").mkdir()
    assert load(f"{root}@20", num_labels=3).name == f"{root}@20"
    with pytest.raises(DeltatuneError, match=f"no ckpt_7 in {root}; steps there: 3, 20, 100$"):
        load(f"{root}@7")
    with pytest.raises(DeltatuneError, match="no ckpt_last in"):
        load(f"{root}@last")
    with pytest.raises(DeltatuneError, match=f"is a series; choose a step: {root}@3, {root}@20, {root}@100$"):
        load(root)
    with pytest.raises(DeltatuneError, match="steps there: none"):
        load(f"{root / 'ckpt_3'}@1")
    at = tmp_path / "me@home"
    at.mkdir()
    root.rename(at / "series")
    assert load(at / "series" / "ckpt_3", num_labels=3).form == "head"
    assert load(f"{at / 'series'}@3", num_labels=3).form == "head"


def test_a_missing_hub_model_says_where_it_looked_and_what_to_do(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DeltatuneError) as caught:
        load("nobody/no-such-model")
    message = str(caught.value)
    assert message.startswith("model nobody/no-such-model: no such folder")
    assert str(tmp_path / "cache") in message
    assert "offline" in message
    assert "`hf download nobody/no-such-model`" in message
    assert "\n" not in message


@pytest.fixture
def cached(folders, monkeypatch, tmp_path):
    """`cached(revision)`: the folder of the model me/model in an otherwise empty cache of the hub, under this branch."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def build(revision="main"):
        top, commit = tmp_path / "cache" / "models--me--model", "a" * 40
        (top / "refs").mkdir(parents=True)
        (top / "refs" / revision).write_text(commit, encoding="utf-8")
        return shutil.copytree(folders["bert-head"], top / "snapshots" / commit)

    return build


def test_a_revision_that_is_missing_is_in_the_download_command(cached):
    cached("main")
    assert load("me/model", num_labels=3).commit == "a" * 40
    with pytest.raises(DeltatuneError, match=r"not in the cache .* at revision v2 .*`hf download me/model --revision v2`"):
        load("me/model", revision="v2")


def test_what_is_wrong_with_a_model_in_the_cache_is_not_its_absence(cached):
    path = cached("v2")
    edit(path / "config.json", model_type="frobnicate")
    with pytest.raises(DeltatuneError, match=r"^model me/model: unknown architecture 'frobnicate' in its config.json"):
        load("me/model", revision="v2")
    with pytest.raises(DeltatuneError, match="not in the cache"):
        load("me/model")


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


class Harmful:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def without(path, part):
    tensors = load_file(path / "model.safetensors")
    save_file({k: t for k, t in tensors.items() if part not in k}, path / "model.safetensors", metadata={"format": "pt"})


def with_nan(path):
    tensors = load_file(path / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][3, 2] = torch.nan
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def with_code(path, mark):
    edit(path / "config.json", model_type="mine", auto_map={"AutoConfig": "code.Config"})
    (path / "code.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n", encoding="utf-8")


DAMAGE = {
    "no config": (lambda p, m: (p / "config.json").unlink(), "has no config.json; give a folder written by save_pretrained"),
    "config": (lambda p, m: truncate(p / "config.json"), "is not a valid JSON file"),
    "unknown": (
        lambda p, m: edit(p / "config.json", model_type="frobnicate"),
        "unknown architecture 'frobnicate' in its config.json; give a model that transformers .* knows, or update the library$",
    ),
    "no record": (
        lambda p, m: edit(p / "config.json", model_type="gpt2"),
        "model .*: architecture 'gpt2' has no record .*--sites FILE.yaml",
    ),
    "code": (with_code, "contains custom code, which is never run here; give a model"),
    "no weights": (lambda p, m: (p / "model.safetensors").unlink(), "cannot load its weights .*no file named model.safetensors"),
    "half": (
        lambda p, m: truncate(p / "model.safetensors"),
        "cannot load its weights .*incomplete metadata.*; restore the file, or",
    ),
    "half bin": (lambda p, m: truncate(as_bin(p) / "pytorch_model.bin"), "cannot load its weights|is damaged"),
    "empty bin": (lambda p, m: (as_bin(p) / "pytorch_model.bin").write_bytes(b""), "cannot load its weights|is damaged"),
    "pickle": (
        lambda p, m: (as_bin(p) / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful(m), protocol=2)),
        "holds more than tensors, which could run code; use model.safetensors",
    ),
    "zipped pickle": (lambda p, m: torch.save({"w": Harmful(m)}, as_bin(p) / "pytorch_model.bin"), "which could run code"),
    "nan": (lambda p, m: with_nan(p), "bert.embeddings.word_embeddings.weight holds nan or infinity; the checkpoint is damaged"),
    "lost": (
        lambda p, m: without(p, "layer.1.output.dense"),
        r"does not hold bert.encoder.layer.1.output.dense.bias \(2 such tensors\) as form 'head' needs it; choose another --form",
    ),
    "other size": (
        lambda p, m: edit(p / "config.json", intermediate_size=32),
        r"bert.encoder.layer.0.intermediate.dense.bias is \(24,\) in the checkpoint and \(32,\) by its config.json \(6 such",
    ),
    "no tokenizer": (
        lambda p, m: [item.unlink() for item in p.glob("*") if "token" in item.name or "vocab" in item.name],
        "no tokenizer files there; save its tokenizer in the same folder",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_ends_in_one_line(folder, tmp_path, kind):
    path, mark = folder("bert-head"), tmp_path / "code-has-run"
    damage, message = DAMAGE[kind]
    damage(path, mark)
    with pytest.raises(DeltatuneError, match=message) as caught:
        load(path, num_labels=3)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_what_cannot_be_a_model(folders, tmp_path):
    with pytest.raises(DeltatuneError, match=r"model .*/config.json is a file; give the folder that holds it"):
        load(folders["bert-head"] / "config.json")
    with pytest.raises(DeltatuneError, match="no such folder; give a folder written by save_pretrained or a hub name"):
        load(tmp_path / "nothing")
    with pytest.raises(DeltatuneError, match=r"does not hold|cannot load its weights"):
        load(folders["bert-head"], form="prompt")
    with pytest.raises(DeltatuneError, match="a bert model has no such form; choose another --form or model"):
        load(folders["bert-head"], form="text")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there():
    assert pick_device("auto").type in ("cpu", "mps")
    with pytest.raises(DeltatuneError, match="--device cuda: none here; use --device auto or cpu"):
        pick_device("cuda")


def test_a_model_in_memory_with_nan_is_refused(tiny_model):
    model = tiny_model("roberta-head")
    model.classifier.dense.bias.data[0] = torch.inf
    with pytest.raises(DeltatuneError, match=r"model mine: classifier.dense.bias holds nan or infinity"):
        wrap(model, name="mine")
