"""Models and deltas that do not fit, through the command.

One line with what, where, which value and the way out, code 2, nothing written and no code of a pickle run.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltatune.core import cli
from deltatune.core.checkpoint import ABOUT, TENSORS
from deltatune.core.files import read_json, write_json, write_text


class Harmful:
    """Makes the folder `mark` when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.fixture(scope="module")
def tuned(tune_reviews, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("bad-input") / "run"
    assert cli.main([*tune_reviews, "--delta", "LoRA", "--out_dir", str(out)]) == 0
    return out


@pytest.fixture
def run(tuned, tmp_path):
    """A copy of the finished run that a test may damage."""
    return shutil.copytree(tuned, tmp_path / "run")


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def edit(path, **changed):
    write_json(path, read_json(path) | changed)


def pickled(path, content):
    """A pickle at `path`, in place of the safetensors file beside it."""
    path.with_suffix(".safetensors").unlink(missing_ok=True)
    torch.save(content, path)


def tensors(path):
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def nan_in(path):
    held = tensors(path)
    name = next(name for name in held if "word_embeddings" in name or "lora_A" in name)
    held[name].view(-1)[3] = torch.nan
    save_file(held, path, metadata={"format": "pt"})


MODELS = {
    "unknown architecture": (
        lambda m, mark: edit(m / "config.json", model_type="frobnicate"),
        "unknown architecture 'frobnicate' in its config.json; give a model that transformers",
    ),
    "no record": (
        lambda m, mark: edit(m / "config.json", model_type="gpt2"),
        "architecture 'gpt2' has no record (known: bert, roberta, t5, xlm-roberta); describe it with --sites FILE.yaml",
    ),
    "other shapes": (
        lambda m, mark: edit(m / "config.json", intermediate_size=24),
        "in the checkpoint and (24,) by its config.json (6 such tensors); restore the config.json that belongs to",
    ),
    "nan": (
        lambda m, mark: nan_in(m / "model.safetensors"),
        "bert.embeddings.word_embeddings.weight holds nan or infinity; the checkpoint is damaged",
    ),
    "truncated": (
        lambda m, mark: cut(m / "model.safetensors"),
        "cannot load its weights (Error while deserializing header: incomplete metadata, file not fully covered); restore the",
    ),
    "no safetensors": (
        lambda m, mark: (m / "model.safetensors").write_bytes(b"PK no tensors"),
        "cannot load its weights (Error while deserializing header: header too large); restore the file",
    ),
    "code": (
        lambda m, mark: pickled(m / "pytorch_model.bin", {"w": Harmful(mark)}) or (m / "model.safetensors").unlink(),
        "pytorch_model.bin is damaged or holds more than tensors, which could run code; use model.safetensors",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_cannot_be_loaded(table, untouched, kind, tune):
    damage, message = MODELS[kind]
    damage(table / "model", table / "mark")
    line = untouched(*tune(table))
    assert f"model {table / 'model'}: " in line
    assert message in line


def test_a_pickle_of_tensors_alone_is_a_model(table, command, tune):
    held = tensors(table / "model" / "model.safetensors")
    (table / "model" / "model.safetensors").unlink()
    torch.save(held, table / "model" / "pytorch_model.bin")
    command(*tune(table))


def tamper(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


CHANGED = f"{TENSORS}: the file is not the one that was saved (its digest differs); restore it"
MISSING = "cannot read {0}: No such file or directory; restore the file, or tune again"
DELTAS = {
    "truncated": (lambda d, mark: cut(d / TENSORS), CHANGED),
    "tampered": (lambda d, mark: tamper(d / TENSORS), CHANGED),
    "nan": (lambda d, mark: nan_in(d / TENSORS), CHANGED),
    "no file": (lambda d, mark: (d / TENSORS).unlink(), MISSING),
    "pickle": (lambda d, mark: pickled(d / "adapter_model.bin", {"w": Harmful(mark)}), MISSING),
    "half a record": (lambda d, mark: cut(d / ABOUT), "deltatune.json line"),
}


@pytest.mark.parametrize("kind", DELTAS)
def test_a_delta_that_cannot_be_read(run, untouched, tmp_path, kind):
    damage, message = DELTAS[kind]
    damage(run / "delta", tmp_path / "mark")
    assert message.format(run / "delta" / TENSORS) in untouched("evaluate", "--run", run, "--device", "cpu")


def test_a_delta_with_nan_or_a_pickle_whose_digest_fits(run, untouched, tmp_path):
    import hashlib

    def seal():
        edit(run / "delta" / ABOUT, tensors_sha256=hashlib.sha256((run / "delta" / TENSORS).read_bytes()).hexdigest())

    nan_in(run / "delta" / TENSORS)
    seal()
    line = untouched("evaluate", "--run", run, "--device", "cpu")
    assert "lora_A.weight holds nan or infinity; tune again with a lower learning rate" in line
    (run / "delta" / TENSORS).unlink()
    torch.save({"w": Harmful(tmp_path / "mark")}, run / "delta" / TENSORS)
    seal()
    line = untouched("evaluate", "--run", run, "--device", "cpu")
    assert "not a safetensors file but a pickle, which is never opened here; save it as safetensors where it was made" in line


def test_a_delta_of_another_size_or_base(run, example, folders, untouched, tune):
    line = untouched(*tune(example, "--start", run, "--delta.rank", 4))
    assert "its deltas and those asked for have other settings (LoRA.rank 8 and 4); give those of the start" in line
    line = untouched("evaluate", "--run", run, "--model", folders["bert-head"], "--other_base", "--device", "cpu")
    assert "bert.encoder.layer.0.attention.self.query.lora_A.weight is (8, 16) here and (8, 64) there" in line
    held = tensors(example / "model" / "model.safetensors")
    held["bert.embeddings.word_embeddings.weight"][0] += 1
    save_file(held, example / "model" / "model.safetensors", metadata={"format": "pt"})
    for words in (tune(example, "--start", run), ("evaluate", "--run", run, "--model", example / "model", "--device", "cpu")):
        line = untouched(*words)
        assert "tuned on base" in line
        assert line.endswith("give the same base, or --other_base to try it on this one\n")


def test_an_adapter_that_would_run_code_or_is_none(run, example, command, untouched, tmp_path):
    command("export", "--run", run, "--out_dir", tmp_path / "peft")
    held = tensors(tmp_path / "peft" / TENSORS)
    pickled(tmp_path / "peft" / "adapter_model.bin", {"w": Harmful(tmp_path / "mark")})
    torch.save({"lora": Harmful(tmp_path / "mark")}, tmp_path / "bad.pt")
    torch.save({"lora": {"bert.encoder.x": torch.ones(2)}}, tmp_path / "strange.pt")
    write_text(tmp_path / "text.pt", "hello")
    for name, message in {
        "peft": "adapter_model.bin: refused, it is damaged or would run code; save its tensors as safetensors where it was made",
        "bad.pt": "bad.pt: refused, it is damaged or would run code; save its tensors as safetensors",
        "text.pt": "text.pt: refused, it is damaged or would run code",
        "strange.pt": "strange.pt: no published delta has names like bert.encoder.x; give a file of LoRA",
    }.items():
        words = ("import", "--adapter", tmp_path / name, "--model", example / "model", "--out_dir", tmp_path / "in")
        assert message in untouched(*words)
    torch.save(held, tmp_path / "peft" / "adapter_model.bin")
    command("import", "--adapter", tmp_path / "peft", "--model", example / "model", "--out_dir", tmp_path / "in")


def test_a_loss_that_is_no_number_says_the_step(table, refused, tune):
    line = refused(*tune(table, "--lr", "1e30", "--train.steps", 4))
    assert "the loss is nan at update 2; lower optimizer.lr (now " in line
    assert not (table.parent / "out" / "delta").exists()


def test_a_folder_that_cannot_be_written(table, run, untouched, tune):
    below = table / "train.tsv" / "a" / "b"
    assert f"cannot write {below}: Not a directory; choose another --out_dir" in untouched(*tune(table, "--out_dir", below))
    for words in (("merge", "--run", run), ("export", "--run", run)):
        assert f"{below}" in untouched(*words, "--out_dir", below)
    write_text(table.parent / "in.jsonl", json.dumps({"text": "a lovely soup"}) + "\n")
    line = untouched("predict", "--run", run, "--device", "cpu", "--input", table.parent / "in.jsonl", "--output", below)
    assert str(below) in line


def test_the_traceback_is_there_with_debug_alone(table, capsys, tune):
    (table / "train.tsv").write_bytes(b"")
    words = list(map(str, tune(table)))
    assert cli.main(words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main([*words, "--debug"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last):")
    assert printed.splitlines()[-1].endswith("train.tsv is empty; add examples")
