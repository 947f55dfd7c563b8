"""Files of a task: JSON lines, CSV, task files and saved data sets, whole and malformed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deltatune.core.data import Example, TaskConfig, as_text, build_task, load_task, read_task_file
from deltatune.core.errors import DeltatuneError


def jsonl(folder: Path, **rows: list[dict]) -> Path:
    for split, objects in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects), encoding="utf-8")
    return folder


def test_json_lines(tmp_path: Path):
    rows = [{"text": "a", "label": 3, "metadata": {"i": 0}}, {"text": "b", "label": 10}]
    task = load_task("imdb", jsonl(tmp_path, train=rows, dev=rows[:1], test=[{"text": "c", "label": 11}]))
    assert task.labels == ("3", "10", "11")
    assert task.train[1] == Example(("b",), "10", (), "train-1")
    assert task.notes == ("labels without a training example: 11",)
    pair = [{"label": "x", "sentence2": "b", "sentence1": "a"}]
    assert load_task("imdb", jsonl(tmp_path, train=pair, dev=pair, test=pair)).train[0].texts == ("a", "b")
    other = [{"label": "x", "question": "q", "metadata": "m", "passage": "p", "more": "n"}]
    assert load_task("imdb", jsonl(tmp_path, train=other, dev=other, test=other)).train[0].texts == ("q", "p")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"train.jsonl line 2: not JSON"),
        ("[1]", r"line 2: expected a JSON object, got '\[1\]'"),
        ('{"text": 3, "label": "a"}', r"line 2: column 'text' must be a text, got 3; columns: text, label"),
        ('{"text": "a"}', r"line 2: no label"),
        ('{"text": "a", "label": -1}', r"line 2: no label"),
        ('{"text": "a", "label": true}', r"line 2: a label is a text or a number, got True"),
        ('{"text": "a", "label": 0.5}', r"line 2: label 0.5 is a real number; set `regression"),
    ],
)
def test_malformed_json_lines(tmp_path: Path, line: str, message: str):
    (tmp_path / "train.jsonl").write_text('{"text": "good", "label": "a"}\n' + line + "\n")
    with pytest.raises(DeltatuneError, match=message):
        load_task("imdb", tmp_path)


def test_a_label_that_a_given_list_lacks(tmp_path: Path):
    rows = [{"text": "a", "label": "method"}]
    jsonl(tmp_path, train=rows, dev=rows, test=[*rows, {"text": "b", "label": "Method"}])
    with pytest.raises(
        DeltatuneError, match=r"test.jsonl line 2: unknown label 'Method'; known labels: background, method, result"
    ):
        load_task("scicite", tmp_path)
    config = TaskConfig(name="own", reader="tsv", metric="accuracy", labels=("x", "y"))
    with pytest.raises(DeltatuneError, match="test has label 'z'; known labels: x, y"):
        build_task(config, [Example(("a",), "x")], [], [Example(("a",), "z")])


def test_values_out_of_range(tmp_path: Path):
    table = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t{}\n"
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text(table.format("2.5"))
    task = load_task("glue/stsb", tmp_path)
    assert (task.train[0].label, task.labels, task.regression) == (2.5, (), (0.0, 5.0))
    assert as_text(task, task.train[0]) == (" [glue-stsb] sentence 1: a [SEP] sentence 2: b", ("<extra_id_0>2.5",))
    for value in ("5.1", "much", "nan"):
        (tmp_path / "train.tsv").write_text(table.format(value))
        with pytest.raises(DeltatuneError, match=f"train.tsv line 2: label '{value}' is not a number from 0 to 5"):
            load_task("glue/sts-b", tmp_path)


def test_csv_quotes(tmp_path: Path):
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text('0,"a ""quoted"", text"\n1,\n')
    task = load_task("mr", tmp_path)
    assert [example.texts[0] for example in task.train] == ['a "quoted", text', ""]
    (tmp_path / "train.csv").write_text('0,fine\n0,"open\n')
    with pytest.raises(DeltatuneError, match=r"train.csv line 2: unexpected end of data; check the quotes"):
        load_task("mr", tmp_path)


def test_a_task_file(tmp_path: Path):
    (tmp_path / "own.yaml").write_text(
        "reader: csv\nmetric: macro_f1\ntexts: [question]\nlabel: kind\nlabels: [0, 1]\ntrain: a.csv\ndev: a.csv\n"
        'template: "*cls**sent_0**mask**sep+*"\nlabel_words: {0: "No", 1: "Yes"}\n'
    )
    (tmp_path / "a.csv").write_text("kind,question\n1,why?\n0,who?\n")
    task = load_task(tmp_path / "own.yaml")
    assert (task.name, task.labels, task.config.label_words) == ("own", ("0", "1"), {"0": "No", "1": "Yes"})
    assert task.train[0] == Example(("why?",), "1", (), "a-1")
    assert as_text(task, task.train[0]) == (" [own] why?", ("<extra_id_0>1",))
    assert load_task(str(tmp_path / "own.yaml")) == task
    assert hash(task.config) == hash(read_task_file(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reader: tsv\nmetrics: accuracy\n", "unknown key 'metrics'; did you mean 'metric'?"),
        ("reader: tsv\n", "missing key 'metric'"),
        ("reader: xml\nmetric: accuracy\n", "unknown reader 'xml'; known readers: tsv, csv, jsonl, gym, hub"),
        ("reader: tsv\nmetric: acuracy\n", "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        (
            "reader: tsv\nmetric: accuracy\nregression: [5, 0]\n",
            "regression must be \\[low, high\\] with low < high, got \\[5.0, 0.0\\]",
        ),
        ("reader: tsv\nmetric: accuracy\nlabels: [a, a]\n", "labels must be different"),
        ("reader: tsv\nmetric: accuracy\ntexts: [a, b, c]\n", "one or two texts"),
        ("reader: tsv\nmetric: accuracy\nlabel_words: 3\n", "label_words must be a mapping, got 3"),
        ("reader: tsv\nmetric: accuracy\ntext_positions: [one]\n", "text_positions must be of type int, got 'one'"),
        ("reader: tsv\nmetric: accuracy\nheader: maybe\n", "header must be true, false or auto, got 'maybe'"),
        ("reader: hub\nmetric: accuracy\n", "reader hub needs `hub`"),
        ("- a\n", "expected `key: value` lines, got a list"),
        ("reader: [tsv\n", r"own.yaml line \d: not YAML"),
    ],
)
def test_malformed_task_files(tmp_path: Path, text: str, message: str):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(DeltatuneError, match=message):
        read_task_file(tmp_path / "own.yaml")


def test_a_table_without_header_needs_positions(tmp_path: Path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("some words\tyes\n")
    config = TaskConfig(name="own", reader="tsv", metric="accuracy", texts=("text",))
    with pytest.raises(
        DeltatuneError, match=r"line 1: none of the columns text, label in 'some words, yes'; add a header, or set"
    ):
        load_task(config, tmp_path)
    task = load_task(replace(config, text_positions=(0,), label_position=-1), tmp_path)
    assert task.train == (Example(("some words",), "yes", (), "train-0"),)


def test_a_saved_data_set(tmp_path: Path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})

    def part(*labels: int) -> Dataset:
        return Dataset.from_dict({"text": [f"text {label}" for label in labels], "label": labels}, features=features)

    DatasetDict({"train": part(0, 1), "validation": part(1), "test": part(-1)}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "own.yaml").write_text("reader: hub\nmetric: accuracy\nhub: saved\n")
    task = load_task(tmp_path / "own.yaml")
    assert task.train == (Example(("text 0",), "no", (), "train-0"), Example(("text 1",), "yes", (), "train-1"))
    assert task.labels == ("no", "yes")
    assert task.notes == ("the test file has no labels: no test examples",)
    with pytest.raises(DeltatuneError, match=r"no split 'dev'; its splits: train, validation, test"):
        load_task(replace(task.config, dev="dev"), tmp_path)
    with pytest.raises(DeltatuneError, match=r"cannot load data set '.*absent'"):
        load_task(replace(task.config, hub=str(tmp_path / "absent")), tmp_path)
