"""Sums of delta folders, and what deltas must have in common."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace

import pytest
import torch

from deltatune.core import checkpoint
from deltatune.core.checkpoint import CONFIG, TENSORS, Saved, load, read, save, write
from deltatune.core.combining import combine_files, other_meaning, require_one_space
from deltatune.core.delta import BitFit, Head, Houlsby, LoRA, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import combine


@pytest.fixture
def lora(tiny, stir):
    tuned = attach(tiny("roberta-head"), LoRA(rank=2))
    stir(tuned)
    return tuned


@pytest.fixture
def three(lora, stir, tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for seed, path in enumerate(paths):
        stir(lora, seed=seed)
        save(path, lora, {"seed": seed})
    return paths


def test_combined_files_are_combined_weights(three, tmp_path, tiny):
    coefficients = [0.5, -1.25, 2.0]
    saved = combine_files(three, coefficients)
    expected = combine([read(path).weights for path in three], coefficients)
    assert list(saved.weights) == list(expected)
    assert all(torch.equal(saved.weights[name], expected[name]) for name in expected)
    assert [(item["path"], item["coefficient"]) for item in saved.about["combined"]] == [
        (str(path), c) for path, c in zip(three, coefficients, strict=True)
    ]
    write(tmp_path / "sum", saved)
    loaded = load(tmp_path / "sum", tiny("roberta-head"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.weights().items())
    config = json.loads((tmp_path / "sum" / CONFIG).read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted({name.split(".lora_")[0] for name in loaded.weights() if ".lora_" in name})
    single = combine_files(three[:1], [1.0])
    assert all(torch.equal(single.weights[name], tensor) for name, tensor in read(three[0]).weights.items())


def test_combining_files_holds_one_tensor_of_each(three, monkeypatch):
    alive, most, taken = weakref.WeakSet(), [], []

    class Spy:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def get_tensor(self, name):
            tensor = self.file.get_tensor(name)
            alive.add(tensor)
            taken.append(name)
            most.append(len(alive))
            return tensor

    opened = checkpoint.open_tensors
    monkeypatch.setattr(checkpoint, "open_tensors", lambda path: Spy(opened(path)))
    saved = combine_files(three, [1.0, 2.0, 3.0])
    assert taken == [name for key in saved.weights for name in [checkpoint.PREFIX + key] * 3]
    assert max(most) <= len(three)


def test_what_does_not_fit_together_is_not_combined(three, tiny, tmp_path):
    def other(name, *configs, model="roberta-head"):
        save(tmp_path / name, attach(tiny(model), *configs))
        return tmp_path / name

    for path, what in ((other("h", Houlsby(width=2)), "LoRA and Houlsby"), (other("r", LoRA(rank=3)), "LoRA.rank 2 and 3")):
        with pytest.raises(DeltatuneError, match=rf"{path} have other settings \({what}\)"):
            combine_files([three[0], path], [0.5, 0.5])
    with pytest.raises(DeltatuneError, match="has other names than"):
        combine_files([three[0], other("bert", LoRA(rank=2), model="bert-head")], [0.5, 0.5], other_base=True)
    saved = read(three[1])
    wide = {**saved.weights, "classifier.out_proj.bias": torch.zeros(5)}
    write(tmp_path / "w", Saved(wide, saved.configs, saved.base, saved.head))
    with pytest.raises(DeltatuneError, match=r"classifier\.out_proj\.bias has shapes \(3,\), \(5,\)"):
        combine_files([three[0], tmp_path / "w"], [0.5, 0.5])
    for paths, coefficients in (([], []), (three, [1.0])):
        with pytest.raises(DeltatuneError, match="one coefficient for each"):
            combine_files(paths, coefficients)
    (three[2] / TENSORS).write_bytes((three[1] / TENSORS).read_bytes())
    with pytest.raises(DeltatuneError, match="not the one that was saved"):
        combine_files(three, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        ((LoRA(alpha=16),), (LoRA(alpha=32),), "LoRA.alpha 16 and 32"),
        ((LoRA(),), (LoRA(targets=("key",)),), "LoRA.targets [query, value] and [key]"),
        ((Houlsby(),), (Houlsby(placement="after_norm"),), "Houlsby.placement after_projection and after_norm"),
        ((LoRA(), BitFit()), (BitFit(), LoRA()), "LoRA + BitFit and BitFit + LoRA"),
        ((Head(),), (BitFit(),), "a head alone and BitFit"),
        ((Prefix(),), (Prefix(positions="after"),), "Prefix.positions text and after"),
        # First values, noise in training, the head, and sizes given in two ways say nothing about what tensors mean.
        ((LoRA(),), (LoRA(init="fan_rank", dropout=0.5), Head(init_std=0.1)), None),
        ((Houlsby(width=4),), (Houlsby(width=None, reduction=4, init_std=0.5),), None),
        ((SoftPrompt(),), (SoftPrompt(init_std=1.0),), None),
    ],
)
def test_which_settings_give_tensors_their_meaning(left, right, found):
    assert other_meaning(left, right) == found


def test_deltas_of_other_bases_are_added_only_when_told_so(three):
    saved = read(three[1])
    write(three[1], replace(saved, base={**saved.base, "name": "upgraded", "digest": "f" * 64}))
    with pytest.raises(
        DeltatuneError, match=r"were tuned on different bases, .*upgraded \(digest ffffffffffff\); .* --other_base"
    ):
        combine_files(three, [1.0, 1.0, 1.0])
    found = combine_files(three, [1.0, 1.0, 1.0], other_base=True)
    assert [part["tuned_on"]["digest"][:4] for part in found.about["combined"]] == [
        saved.base["digest"][:4],
        "ffff",
        saved.base["digest"][:4],
    ]
    assert [part["digest"] for part in found.about["combined"]] == [checkpoint.describe(path)["tensors_sha256"] for path in three]
    assert found.base == saved.base


def test_one_space_is_one_kind_with_equal_settings_on_one_base(three):
    one = read(three[0])
    require_one_space(one, read(three[1]), "distance")
    with pytest.raises(DeltatuneError, match=r"^distance: .*/a and .*/b have other settings \(LoRA.alpha 16 and 32\)"):
        require_one_space(one, replace(read(three[1]), configs=(LoRA(rank=2, alpha=32),)), "distance", other_base=True)


def test_heads_of_other_labels_are_not_added_and_common_facts_are_kept(lora, tmp_path):
    for name, labels in (("a", ["no", "yes"]), ("b", ["no", "yes"]), ("c", ["yes", "no"])):
        save(tmp_path / name, lora, {"task": "t", "labels": labels, "step": len(labels)})
    assert combine_files([tmp_path / "a", tmp_path / "b"], [0.5, 0.5]).about["labels"] == ["no", "yes"]
    with pytest.raises(DeltatuneError, match="know other labels; take deltas of one task"):
        combine_files([tmp_path / "a", tmp_path / "c"], [0.5, 0.5])
