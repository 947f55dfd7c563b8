"""Input that does not fit, through the command: one line with what, where, which value and the way out, code 2, nothing written.

`test_commands_refusals.py` has what is wrong with options; a full disk and a killed run have files of their own.
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

TABLE = "reader: tsv\ntexts: [text]\nlabel: label\nlabels: [negative, positive]\nmetric: accuracy\n"
ROWS = "text\tlabel\na dull song\tnegative\na lovely soup\tpositive\n"


class Harmful:
    """Makes the folder `mark` when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def listing(folder):
    """Every path below `folder`, and of files the size and when they were written."""
    paths = {path: path.stat() for path in sorted(folder.rglob("*"))}
    return [(str(path), *([about.st_size, about.st_mtime_ns] if path.is_file() else [])) for path, about in paths.items()]


@pytest.fixture(scope="module")
def tuned(tune_reviews, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("bad-input") / "run"
    assert cli.main([*tune_reviews, "--delta", "LoRA", "--out_dir", str(out)]) == 0
    return out


@pytest.fixture
def example(reviews, tmp_path):
    """A copy of the example that a test may damage: its folder."""
    return shutil.copytree(reviews.parent, tmp_path / "example")


@pytest.fixture
def table(example):
    """The example as a table: its folder."""
    write_text(example / "task.yaml", TABLE)
    for split in ("train", "dev", "test"):
        write_text(example / f"{split}.tsv", ROWS)
    return example


@pytest.fixture
def run(tuned, tmp_path):
    """A copy of the finished run that a test may damage."""
    return shutil.copytree(tuned, tmp_path / "run")


@pytest.fixture
def untouched(refused, tmp_path):
    """`untouched(*words)`: the line of a refusal that leaves every file as it was."""

    def words_of(*words):
        before = listing(tmp_path)
        line = refused(*words)
        assert listing(tmp_path) == before
        assert "Traceback" not in line
        return line

    return words_of


def tune(folder, *extra):
    common = ("tune", "--model", folder / "model", "--task", folder / "task.yaml", "--device", "cpu", "--delta", "LoRA")
    return (*common, "--train.steps", 2, "--train.batch_size", 4, "--out_dir", folder.parent / "out", *extra)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "text\tlabel\na\tnegative\nb\tc\tpositive\n",
            "train.tsv line 3: 3 columns, expected 2 as in line 1, got 'b | c | positive'; look for a tab too many or too few",
        ),
        ("text\tlabel\na negative\n", "train.tsv line 2: 1 column, expected 2 as in line 1, got 'a negative'; look for a tab"),
        ("text\tlabel\na\tbad\n", "train.tsv line 2: unknown label 'bad'; known labels: negative, positive"),
        ("text\tlabel\na\t\n", "train.tsv line 2: unknown label ''; known labels: negative, positive"),
        ("text\tlabel\n", "train.tsv holds no examples; add some"),
        ("", "train.tsv is empty; add examples"),
        ("satz\tlabel\na\tnegative\n", "train.tsv line 1: no column 'text' in the header; columns: satz, label"),
        ("a\tb\n", "train.tsv line 1: none of the columns text, label in 'a, b'; add a header, or set text_positions"),
        (b"text\tlabel\na\tnegative\ncaf\xe9\tpositive\n", "train.tsv line 3: byte 0xe9 is not utf-8; convert the file first"),
        (None, "no train.tsv in"),
    ],
)
def test_a_table_that_cannot_be_read(table, untouched, text, message):
    path = table / "train.tsv"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    line = untouched(*tune(table))
    assert message in line
    assert line.startswith("deltatune tune: error: ")


def test_lines_that_end_as_on_windows_are_no_error(table, command):
    (table / "train.tsv").write_bytes(("\ufeff" + ROWS.replace("\n", "\r\n")).encode("utf-8"))
    command(*tune(table))
    facts = read_json(table.parent / "out" / "run.json")
    (table / "train.tsv").write_bytes(ROWS.encode("utf-8"))
    command(*tune(table, "--out_dir", table.parent / "unix"))
    assert facts["data"] == read_json(table.parent / "unix" / "run.json")["data"]


def test_too_few_examples_of_a_class(table, untouched):
    message = "--shots 16: class negative of task has 1 examples, 32 are needed (as many again for development); lower --shots"
    assert message in untouched(*tune(table, "--shots", 16))
    words = ("fewshot", "--task", table / "task.yaml", "--data_dir", table, "--k", 16, "--seed", 0, "--out_dir", table / "few")
    line = untouched(*words)
    assert "class 'negative' has 1 rows in " in line
    assert line.endswith("train.tsv, 32 are needed for training and development; lower k\n")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "no such folder: {0}; give that of the files of task task as --data_dir"),
        ("train.tsv", "--data_dir {0} is a file; give the folder that holds it"),
        ("model", "task task: no train.tsv in {0}; give the folder that holds it as --data_dir"),
    ],
)
def test_a_data_dir_without_the_files(table, untouched, place, message):
    assert message.format(table / place) in untouched(*tune(table, "--data_dir", table / place))


def test_a_data_dir_that_holds_the_files_or_their_folder(table, command, untouched):
    shutil.copytree(table, table.parent / "data" / "RTE", ignore=shutil.ignore_patterns("model", "*.yaml", "*.jsonl"))
    for split in ("train", "dev", "test"):
        write_text(
            table.parent / f"data/RTE/{split}.tsv", "sentence1\tsentence2\tlabel\na\tb\tentailment\nc\td\tnot_entailment\n"
        )
    for place in ("data", "data/RTE"):
        words = tune(
            table, "--task", "glue/rte", "--data_dir", table.parent / place, "--out_dir", table.parent / f"of {place[4:]}"
        )
        command(*words)
    line = untouched(*tune(table, "--task", "glue/rte"))
    assert "task glue/rte reads files; give their folder as data_dir (--data_dir)" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrik: accuracy\n", "task.yaml: unknown key 'metrik'; did you mean 'metric'?"),
        ("metric: f1\n", "task.yaml line 6: the key 'metric' stands there twice; keep one of them"),
        ("label_words: {negative: a, negative: b}\n", "line 6: the key 'negative' stands there twice"),
        ("dev_is_test: maybe\n", "task.yaml: dev_is_test must be of type bool, got 'maybe'"),
        ("answers: [a]\n", "task.yaml: answers must be a mapping, got ['a']"),
        ("regression: [1]\n", "task.yaml: regression must be a list of 2 values, got [1]"),
        ("regression: [a, b]\n", "task.yaml: regression must be of type float, got 'a'"),
        ("text_positions: [a]\n", "task.yaml: text_positions must be of type int, got 'a'"),
        ("source_names: [yes]\n", "task.yaml: source_names must be of type str, got True; put it in quotes if it is a text"),
        ("extra_metrics: [akkuracy]\n", "task.yaml: task task: unknown metric 'akkuracy'; did you mean 'accuracy'?"),
        ("answers: {a: b\n", "task.yaml line 7: not YAML ("),
        ("hub: !!python/object/apply:os.system [exit]\n", "task.yaml line 6: could not determine a constructor for the tag"),
        ("hub: \x07\n", "task.yaml: not YAML ("),
    ],
)
def test_a_task_file_with_a_mistake(table, untouched, text, message):
    write_text(table / "task.yaml", TABLE + text)
    assert message in untouched(*tune(table))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  stepz: 3\n", "unknown option train.stepz; did you mean train.steps?"),
        ("modle: 3\n", "unknown option modle; did you mean model?"),
        ("train:\n  steps: many\n", "train.steps: expected int, got many"),
        ("lr: 0.1\nlr: 0.2\n", "c.yaml line 2: the key 'lr' stands there twice; keep one of them"),
        ("lr: [\n", "c.yaml line 2: not YAML ("),
        ("- lr\n", "c.yaml: expected `key: value` lines, got a list"),
    ],
)
def test_a_config_file_with_a_mistake(table, untouched, text, message):
    write_text(table / "c.yaml", text)
    assert message in untouched(*tune(table, "--config", table / "c.yaml"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("*cls**sent_0**maks**sep+*", "unknown piece '*maks*' in '*cls**sent_0**maks**sep+*'; write '*mask*', or begin it with"),
        ("*cls**sent_0**sep+*", "ends without '*mask*'; add one"),
        ("*cls**sent_0**mask**mask**sep+*", "a second '*mask*' in"),
        ("*cls**sent_1**mask**sep+*", "template piece '*sent_1*': no text 1 among the 1 given (from 0)"),
    ],
)
def test_a_template_that_cannot_be_filled(table, untouched, template, message):
    write_text(table / "task.yaml", TABLE + f'template: "{template}"\nlabel_words: {{negative: dull, positive: lovely}}\n')
    assert message in untouched(*tune(table, "--form", "prompt"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dull soup", "label word 'dull soup' of label 'negative' is not one token but 2: dull soup; choose a word that is one"),
        ("dulllll", "label word 'dulllll' of label 'negative' is unknown; choose a word that is one token"),
    ],
)
def test_a_label_word_that_is_not_one_token(table, untouched, word, message):
    words = f"template: '*cls**sent_0**mask**sep+*'\nlabel_words: {{negative: {word}, positive: lovely}}\n"
    write_text(table / "task.yaml", TABLE + words)
    assert message in untouched(*tune(table, "--form", "prompt"))


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
def test_a_model_that_cannot_be_loaded(table, untouched, kind):
    damage, message = MODELS[kind]
    damage(table / "model", table / "mark")
    line = untouched(*tune(table))
    assert f"model {table / 'model'}: " in line
    assert message in line


def test_a_pickle_of_tensors_alone_is_a_model(table, command):
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


def test_a_delta_of_another_size_or_base(run, example, folders, untouched):
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


def test_a_loss_that_is_no_number_says_the_step(table, refused):
    line = refused(*tune(table, "--lr", "1e30", "--train.steps", 4))
    assert "the loss is nan at update 2; lower optimizer.lr (now " in line
    assert not (table.parent / "out" / "delta").exists()


def test_a_folder_that_cannot_be_written(table, run, untouched):
    below = table / "train.tsv" / "a" / "b"
    assert f"cannot write {below}: Not a directory; choose another --out_dir" in untouched(*tune(table, "--out_dir", below))
    for words in (("merge", "--run", run), ("export", "--run", run)):
        assert f"{below}" in untouched(*words, "--out_dir", below)
    write_text(table.parent / "in.jsonl", json.dumps({"text": "a lovely soup"}) + "\n")
    line = untouched("predict", "--run", run, "--device", "cpu", "--input", table.parent / "in.jsonl", "--output", below)
    assert str(below) in line


def test_the_traceback_is_there_with_debug_alone(table, capsys):
    (table / "train.tsv").write_bytes(b"")
    words = list(map(str, tune(table)))
    assert cli.main(words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main([*words, "--debug"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last):")
    assert printed.splitlines()[-1].endswith("train.tsv is empty; add examples")
