"""`deltatune pretrain` on a folder of texts, and what other commands do with its result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from deltatune.core.backbone import BackboneConfig
from deltatune.core.corpus import Document
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.loading import load_backbone
from deltatune.core.pretraining import Texts
from deltatune.core.run import read_records


@pytest.fixture(scope="module")
def texts(reviews, tmp_path_factory) -> Path:
    """The texts of the bundled example, as a text file and a JSON-lines file in a folder within."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [json.loads(line)["text"] for line in reviews.with_name("train.jsonl").read_text(encoding="utf-8").splitlines()]
    (folder / "a.txt").write_text("\n\n".join(rows[:12]), encoding="utf-8")
    (folder / "more").mkdir()
    (folder / "more" / "b.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows[12:]), encoding="utf-8")
    (folder / "notes.md").write_text("not read", encoding="utf-8")
    return folder


@pytest.fixture
def words(reviews, texts, tmp_path) -> list[str]:
    """A short run on the example's encoder."""
    found = [
        "pretrain",
        "--model",
        reviews.with_name("model"),
        "--texts",
        texts,
        "--out_dir",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    return [*map(str, found), "--steps", "6", "--batch_size", "4", "--mlm.max_length", "16", "--log_every", "3"]


def test_a_model_is_trained_further_and_tuned(command, words, reviews, tmp_path):
    out = tmp_path / "out"
    more = ["--snapshots", "4", "--probe", str(reviews), "--probe_every", "3", "--lr", "1e-2", "--save_as", "fp16"]
    printed = command(*words, *more)
    assert "the model is in" in printed
    assert "reviews" in printed
    about = read_json(out / "run.json")
    assert (about["status"], about["steps"]) == ("finished", 6)
    assert about["base"]["digest"] != about["digest"]
    assert len(about["texts"]["digest"]) == 64
    records = read_records(out)
    assert [r["step"] for r in records if r["kind"] == "loss"] == [3, 6]
    assert [(r["step"], r["task"]) for r in records if r["kind"] == "zero-shot"] == [(i, "reviews") for i in (0, 3, 6)]
    stored = transformers.AutoModelForMaskedLM.from_pretrained(out, dtype="auto")
    assert stored.dtype == torch.float16
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"ckpt_4"}
    assert "is finished already" in command(*words, *more)
    base = [read_json(reviews.with_name("model") / "config.json")["model_type"]]
    for model in (out, f"{out}@4"):
        target = tmp_path / f"tuned{len(base)}"
        steps = ["--train.steps", 2, "--train.batch_size", 4, "--device", "cpu"]
        command("tune", "--model", model, "--task", reviews, "--delta", "BitFit", "--out_dir", target, *steps)
        base.append(read_json(target / "run.json")["base"]["digest"])
    assert len(set(base)) == 3


def test_an_interrupted_command_goes_on(command, words, tmp_path, monkeypatch):
    command(*words)
    whole = {name: tensor.clone() for name, tensor in _tensors(tmp_path / "out").items()}
    words[words.index("--out_dir") + 1] = str(tmp_path / "cut")
    from deltatune.core.pretraining import folder

    save = folder.save_model

    def killed(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "save_model", killed)
    assert _code([*words, "--save_every", "4"]) == 130
    assert (tmp_path / "cut" / "state" / "positions.json").is_file()
    assert read_json(tmp_path / "cut" / "run.json")["status"] == "running"
    monkeypatch.setattr(folder, "save_model", save)
    command(*words, "--save_every", "4")
    again = _tensors(tmp_path / "cut")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not (tmp_path / "cut" / "state").exists()


def _with(words: list[str], option: str, value: str) -> list[str]:
    return [value if before == option else word for before, word in zip(["", *words], words, strict=False)]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def _code(words: list[str]) -> int:
    from deltatune.core import cli

    return cli.main(words)


def test_new_weights_need_a_configuration_and_a_tokenizer_only(command, words, reviews, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(reviews.with_name("model"), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    words[words.index("--model") + 1] = str(bare)
    command(*words, "--from_scratch")
    assert read_json(tmp_path / "out" / "run.json")["config"]["from_scratch"] is True
    start = _tensors(reviews.with_name("model"))
    found = _tensors(tmp_path / "out")
    name = next(name for name in found if name.endswith("word_embeddings.weight"))
    assert not torch.allclose(found[name], start[name].float(), atol=0.05)


def test_an_encoder_saved_without_its_head_for_masked_words_gets_a_new_one(command, refused, words, reviews, tmp_path):
    from safetensors.torch import save_file

    headless = tmp_path / "headless"
    shutil.copytree(reviews.with_name("model"), headless)
    start = {name: tensor for name, tensor in _tensors(headless).items() if not name.startswith(("lm_head", "cls"))}
    assert len(start) < len(_tensors(headless))
    save_file(start, headless / "model.safetensors", {"format": "pt"})
    words[words.index("--model") + 1] = str(headless)
    assert "--fresh_head true" in refused(*words)
    assert "give one of them" in refused(*words, "--fresh_head", "true", "--from_scratch")
    assert "leave --fresh_head out" in refused(*_with(words, "--model", "world/t5"), "--fresh_head", "true")
    command(*words, "--fresh_head", "true", "--lr", 1e-9)
    assert read_json(tmp_path / "out" / "run.json")["config"]["fresh_head"] is True
    found = _tensors(tmp_path / "out")
    assert len(found) > len(start)
    kept = {name: tensor for name, tensor in start.items() if name in found}
    assert len(kept) >= 10
    for name, tensor in kept.items():
        torch.testing.assert_close(found[name], tensor.float(), atol=1e-6, rtol=0)
    backbone = load_backbone(BackboneConfig(str(tmp_path / "out"), form="prompt"))
    assert backbone.model.get_output_embeddings().weight is backbone.model.get_input_embeddings().weight


def test_span_corruption_of_a_text_to_text_model(command, folders, texts, tmp_path):
    model = tmp_path / "t5"
    shutil.copytree(folders["t5v11-text"], model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<extra_id_0>", "<extra_id_1>"], special_tokens=True)
    tokenizer.save_pretrained(model)
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(model)
    assert len(tokenizer) <= loaded.config.vocab_size
    steps = ["--steps", 3, "--batch_size", 4, "--span.max_length", 12, "--device", "cpu", "--snapshots", "[2]"]
    command("pretrain", "--model", model, "--texts", texts, "--out_dir", tmp_path / "out", *steps)
    about = read_json(tmp_path / "out" / "run.json")
    assert about["config"]["pretrain"]["objective"]["kind"] == "SpanCorruption"
    kept = _tensors(tmp_path / "out")
    again = load_backbone(BackboneConfig(str(tmp_path / "out"), device="cpu")).model
    assert torch.equal(again.lm_head.weight, kept["lm_head.weight"])
    assert torch.equal(again.shared.weight, kept["shared.weight"])
    assert not torch.equal(kept["lm_head.weight"], kept["shared.weight"])


def test_what_the_command_refuses(refused, words, texts, tmp_path):
    assert "a bert model has no such form" in refused(*words, "--objective", "span")
    assert "shifted by 600 do not fit; lower max_length or shift" in refused(*words, "--mlm.shift", "600")
    assert "--lr 0.1 and --optimizer.lr 0.2: give one of them" in refused(*words, "--lr", "0.1", "--optimizer.lr", "0.2")
    empty = tmp_path / "empty"
    empty.mkdir()
    words[words.index("--texts") + 1] = str(empty)
    assert "no .txt or .jsonl file in this folder" in refused(*words)


def test_documents_of_files(texts, tmp_path):
    found = list(Texts(str(texts)))
    assert len(found) == 24
    assert found == list(Texts(str(texts)))
    assert found[:12] == list(Texts(str(texts / "a.txt")))
    assert all(document.text and document.weights is None for document in found)
    before = Texts(str(texts)).digest
    copy = tmp_path / "copy"
    shutil.copytree(texts, copy)
    assert Texts(str(copy)).digest == before
    (copy / "a.txt").write_text("other", encoding="utf-8")
    assert Texts(str(copy)).digest != before
    assert list(Texts(str(copy / "a.txt"))) == [Document("other")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', r"a.jsonl line 2: no JSON object with a text under 'text'"),
        ("a.jsonl", b"{broken\n", r"a.jsonl line 1: no JSON object"),
        ("a.txt", b"good\n\xff\n", r"a.txt is not utf-8"),
        ("a.csv", b"x\n", r"unknown kind of file; give .txt or .jsonl"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeltatuneError, match=message):
        list(Texts(str(tmp_path / name)))
