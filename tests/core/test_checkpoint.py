"""Delta folders: what is saved comes back, damage is noticed, and nothing is ever half written."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltatune.core import checkpoint
from deltatune.core.checkpoint import ABOUT, CONFIG, TENSORS, load, locate, read, save
from deltatune.core.delta import BitFit, Full, Head, Houlsby, LoRA, Modules, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError

COMPOSITIONS = {
    "prompt and adapter": (SoftPrompt(2), Houlsby(width=3)),
    "all of combos": (SoftPrompt(2), BitFit(), Houlsby(width=3, placement="after_dropout")),
    "prefix and lora": (Prefix(2, 3), LoRA(rank=2, targets=("key", "expand"))),
    "head of its own": (LoRA(rank=2), Head(init_std=0.5)),
    "full and adapter": (Full(), Houlsby(width=3)),
}


def logits_of(tuned, batch):
    with torch.no_grad():
        return tuned(batch)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def entries(path):
    return {item.name: item.read_bytes() for item in path.iterdir()}


@pytest.fixture
def lora(tiny, stir):
    tuned = attach(tiny("roberta-head"), LoRA(rank=2))
    stir(tuned)
    return tuned


@pytest.fixture
def folder(lora, tmp_path):
    save(tmp_path / "delta", lora, {"task": "rte", "labels": ["no", "yes", "so"], "step": 7})
    return tmp_path / "delta"


def test_every_delta_comes_back(tuned, config, batch, stir, tiny, name, tmp_path):
    stir(tuned)
    before, expected = tuned.weights(), logits_of(tuned, batch)
    save(tmp_path / "delta", tuned)
    saved = read(tmp_path / "delta")
    assert list(saved.weights) == list(before)
    assert all(torch.equal(saved.weights[key], before[key]) for key in before)
    assert saved.configs[0] == config
    logits = logits_of(load(tmp_path / "delta", tiny(name)), batch)
    if isinstance(config, (Full, Modules)):  # base + (value - base) is rounded
        torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-6)
    else:
        assert torch.equal(logits, expected)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_deltas_together_come_back(composition, tiny, batch_for, stir, tmp_path):
    configs = COMPOSITIONS[composition]
    tuned = attach(tiny("roberta-head"), *configs)
    stir(tuned)
    expected = logits_of(tuned, batch_for("roberta-head"))
    save(tmp_path / "delta", tuned)
    loaded = load(tmp_path / "delta", tiny("roberta-head"))
    assert tuple(delta.config for delta in loaded.kinds())[: len(configs)] == configs
    tolerance = 1e-6 if Full() in configs else 0.0
    torch.testing.assert_close(logits_of(loaded, batch_for("roberta-head")), expected, atol=tolerance, rtol=tolerance)


def test_a_folder_says_what_it_is(lora, folder):
    saved = read(folder)
    assert (saved.path, saved.about) == (folder, {"task": "rte", "labels": ["no", "yes", "so"], "step": 7})
    assert saved.base == checkpoint.base_record(lora.backbone)
    assert (saved.base["digest"], saved.base["type"], saved.base["form"]) == (lora.backbone.digest, "roberta", "head")
    assert saved.head == tuple(lora.head_names) == tuple(name for name in saved.weights if name.startswith("classifier."))
    described = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    assert described["deltatune_format"] == 1
    query = "base_model.model.roberta.encoder.layer.0.attention.self.query"
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(folder / TENSORS).items()}
    assert (shapes[f"{query}.lora_A.weight"], shapes[f"{query}.lora_B.weight"]) == ((2, 16), (16, 2))


@pytest.mark.parametrize(
    ("name", "modules"),
    [("roberta-head", ["classifier"]), ("bert-head", ["classifier", "bert.pooler.dense"]), ("llama-head", ["score"])],
)
def test_peft_is_told_the_modules_of_the_head(name, modules, tiny, tmp_path):
    save(tmp_path / "delta", attach(tiny(name), LoRA(rank=2)))
    config = json.loads((tmp_path / "delta" / CONFIG).read_text(encoding="utf-8"))
    assert set(config["modules_to_save"]) == set(modules)
    assert len(config["target_modules"]) == 4


@pytest.mark.parametrize(
    ("configs", "peft_type"),
    [((Houlsby(width=2),), "HOULSBY"), ((LoRA(rank=2), BitFit()), "LORA_BITFIT"), ((Head(),), "HEAD")],
)
def test_what_peft_cannot_load_has_a_type_of_its_own(configs, peft_type, tiny, tmp_path):
    save(tmp_path / "delta", attach(tiny("roberta-head"), *configs))
    config = json.loads((tmp_path / "delta" / CONFIG).read_text(encoding="utf-8"))
    assert config == {"peft_type": f"DELTATUNE_{peft_type}", "base_model_name_or_path": "roberta-head"}


def test_other_values_and_no_head(tiny, tmp_path):
    tuned = attach(tiny("roberta-head"), LoRA(rank=2), head=False)
    values = {name: torch.full_like(tensor, 0.5) for name, tensor in tuned.weights().items()}
    save(tmp_path / "delta", tuned, weights=values)
    loaded = load(tmp_path / "delta", tiny("roberta-head"))
    assert loaded.head_names == []
    assert all(torch.equal(tensor, values[name]) for name, tensor in loaded.weights().items())


def test_another_base_is_refused_unless_allowed(folder, lora, tiny, batch_for):
    backbone = tiny("roberta-head")
    backbone.model.roberta.embeddings.LayerNorm.weight.data += 0.5
    with pytest.raises(DeltatuneError, match=r"--other_base") as error:
        load(folder, backbone)
    for digest in (lora.backbone.digest, backbone.digest):
        assert digest[:12] in str(error.value)
    assert not any(module._forward_hooks for module in backbone.model.modules())
    loaded = load(folder, backbone, other_base=True)
    assert all(torch.equal(tensor, lora.weights()[name]) for name, tensor in loaded.weights().items())
    assert not torch.equal(logits_of(loaded, batch_for("roberta-head")), logits_of(lora, batch_for("roberta-head")))


def test_a_base_with_other_names_is_left_as_it_was(folder, tiny):
    backbone = tiny("bert-head")
    with pytest.raises(DeltatuneError, match="do not match: missing bert"):
        load(folder, backbone, other_base=True)
    assert not any(module._forward_hooks for module in backbone.model.modules())


def test_nan_is_refused_and_nothing_is_written(lora, folder, tmp_path):
    before = entries(folder)
    broken = {name: tensor.clone() for name, tensor in lora.weights().items()}
    broken["classifier.dense.bias"][3] = float("nan")
    for path in (folder, tmp_path / "new"):
        with pytest.raises(DeltatuneError, match=r"classifier\.dense\.bias holds nan or infinity"):
            save(path, lora, weights=broken)
    assert [item.name for item in tmp_path.iterdir()] == ["delta"]
    assert entries(folder) == before


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [TENSORS, CONFIG, ABOUT])
def test_a_failure_in_the_middle_leaves_the_old_folder_whole(at, failure, lora, folder, tmp_path, monkeypatch):
    before = entries(folder)

    def failing(function, place):
        def call(*args, **kwargs):
            path = next(arg for arg in args[place:] if hasattr(arg, "name"))
            if path.name == at:
                path.write_bytes(b"half")
                raise failure
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(checkpoint, "save_file", failing(checkpoint.save_file, 1))
    monkeypatch.setattr(checkpoint, "write_json", failing(checkpoint.write_json, 0))
    with pytest.raises(DeltatuneError if isinstance(failure, OSError) else KeyboardInterrupt) as error:
        save(folder, lora, {"step": 8})
    if isinstance(failure, OSError):
        assert "No space left on device" in str(error.value)
    assert [item.name for item in tmp_path.iterdir()] == ["delta"]
    assert entries(folder) == before


def test_saving_again_replaces_the_folder(lora, folder, stir, tmp_path):
    (folder / "leftover").touch()
    new = stir(lora, seed=9)
    save(folder, lora, {"step": 8})
    assert sorted(entries(folder)) == sorted([TENSORS, CONFIG, ABOUT])
    assert read(folder).about == {"step": 8}
    assert all(torch.allclose(tensor, new[name]) for name, tensor in read(folder).weights.items())
    assert [item.name for item in tmp_path.iterdir()] == ["delta"]


def test_tampered_and_truncated_tensors_are_noticed(folder):
    file = folder / TENSORS
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole[:100], b""):
        file.write_bytes(damaged)
        with pytest.raises(DeltatuneError, match=r"not the one that was saved"):
            read(folder)
    file.unlink()
    with pytest.raises(DeltatuneError, match=r"cannot read .*No such file"):
        read(folder)


def test_damaged_tensor_files_are_told_apart_from_pickles(tmp_path, folder):
    file = tmp_path / "x.safetensors"
    file.write_bytes((folder / TENSORS).read_bytes()[:200])
    with pytest.raises(DeltatuneError, match="not a safetensors file but damaged"):
        checkpoint.read_tensors(file)
    for new in (True, False):
        torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=new)
        with pytest.raises(DeltatuneError, match="a pickle, which is never opened here"):
            checkpoint.read_tensors(file)
    with pytest.raises(DeltatuneError, match="no such file"):
        checkpoint.read_tensors(tmp_path / "y")


def test_values_are_read_as_float32(tmp_path):
    save_file({"a": torch.tensor([1.5, 2.0], dtype=torch.bfloat16), "n": torch.tensor([3])}, tmp_path / "x.safetensors")
    found = checkpoint.read_tensors(tmp_path / "x.safetensors")
    assert (found["a"].dtype, found["a"].tolist(), found["n"].dtype) == (torch.float32, [1.5, 2.0], torch.int64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"deltatune_format": 2, "deltatune": "9.1.0"},
            "deltatune_format is 2, written by deltatune 9.1.0, and this deltatune 0.1.0",
        ),
        ({"deltatune_format": 2}, "reads formats up to 1; update deltatune"),
        ({"deltatune_format": "1"}, "deltatune_format is '1', which no version writes"),
        ({"deltatune_format": 0}, "deltatune_format is 0, which no version writes"),
        ({"names": ["roberta.gone"]}, "names roberta.gone, which"),
        ({"deltas": [{"kind": "IA3"}]}, "unknown delta 'IA3'"),
        ({"deltas": [{"kind": "LoRA", "depth": 3}]}, "does not take these settings"),
        ({"deltas": [{"kind": "LoRA", "rank": 0}]}, "lora.rank must be at least 1"),
    ],
)
def test_records_that_this_version_cannot_read_are_refused(changes, reason, folder):
    edit(folder / ABOUT, **changes)
    with pytest.raises(DeltatuneError, match=re.escape(reason)) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_older_formats_are_read(folder, monkeypatch):
    expected = read(folder)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    assert read(folder).configs == expected.configs
    record = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    assert (record["deltatune_format"], record.pop("deltatune")) == (1, version("deltatune-core"))
    (folder / ABOUT).write_text(json.dumps(record), encoding="utf-8")  # as the first files were, which did not say who wrote them
    assert read(folder).configs == expected.configs


def test_a_record_of_something_else_is_refused(folder):
    for text, reason in (("[]", "no 'deltatune_format'"), ('{"deltatune_format": 1}', "no 'deltas'"), ("{", "not JSON")):
        (folder / ABOUT).write_text(text, encoding="utf-8")
        with pytest.raises(DeltatuneError, match=reason):
            read(folder)


def test_infinite_values_in_a_file_are_refused(folder):
    tensors = load_file(folder / TENSORS)
    save_file({name: tensor / 0 for name, tensor in tensors.items()}, folder / TENSORS)
    edit(folder / ABOUT, tensors_sha256=checkpoint._sha256(folder / TENSORS))
    with pytest.raises(DeltatuneError, match="nan or infinity"):
        read(folder)


def test_runs_and_steps_are_addressed(lora, tmp_path):
    run = tmp_path / "run"
    save(run / "delta", lora, {"step": 30})
    for step in (20, 9):
        save(run / "snapshots" / str(step), lora, {"step": step})
    assert read(run).about == read(run / "delta").about == {"step": 30}
    assert read(tmp_path / "run@9").about == {"step": 9}
    assert locate(tmp_path / "run@20") == run / "snapshots" / "20"
    with pytest.raises(DeltatuneError, match="no snapshot of step 10; steps there: 9, 20"):
        read(tmp_path / "run@10")
    with pytest.raises(DeltatuneError, match="no snapshot of step 9; steps there: none"):
        read(tmp_path / "nothing@9")
    with pytest.raises(DeltatuneError, match="no delta here"):
        read(tmp_path / "nothing")


def test_an_adapter_of_peft_is_sent_to_import(folder):
    (folder / ABOUT).unlink()
    with pytest.raises(DeltatuneError, match="a PEFT adapter, not a delta folder; run `deltatune import"):
        read(folder)
