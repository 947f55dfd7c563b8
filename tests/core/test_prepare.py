"""`deltatune prepare`: GLUE, domain and text-to-text layouts from small data sets with the columns of the public ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import datasets
import pytest

from deltatune.core.cli import main
from deltatune.core.data import load_task
from deltatune.core.data.recipe import find_recipe, recipe_names
from deltatune.core.errors import DeltatuneError

GLUE = {
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "sst2": (["sentence"], ["negative", "positive"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "stsb": (["sentence1", "sentence2"], None),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "wnli": (["sentence1", "sentence2"], ["not_entailment", "entailment"]),
}
FOLDERS = {"cola": "CoLA", "sst2": "SST-2", "stsb": "STS-B"}


def prepare(*words: object) -> int:
    return main(["prepare", *map(str, words)])


def save(folder: Path, classes: dict[str, list[str]] | None = None, **splits: list[dict]) -> Path:
    parts = {}
    for split, rows in splits.items():
        part = datasets.Dataset.from_list(rows)
        for column, names in (classes or {}).items():
            part = part.cast_column(column, datasets.ClassLabel(names=names))
        parts[split] = part
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


def glue(folder: Path, task: str) -> Path:
    columns, names = GLUE[task]

    def rows(split: str, count: int) -> list[dict]:
        def label(i: int) -> float | int:
            return -1 if split == "test" else 3.8 if names is None else i % len(names)

        return [{**{c: f"{split} {c} {i}" for c in columns}, "label": label(i), "idx": i} for i in range(count)]

    dev = ("validation_matched", "validation_mismatched") if task == "mnli" else ("validation",)
    splits = {"train": rows("train", 6), **{split: rows(split, 4) for split in dev}, "test": rows("test", 2)}
    return save(folder, {"label": names} if names else None, **splits)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("task", GLUE)
def test_glue_files_are_what_the_loader_reads(tmp_path: Path, capsys, task: str):
    source = glue(tmp_path / "source", task)
    assert prepare("--task", f"glue/{task}", "--format", "glue", "--source", source, "--out_dir", tmp_path / "out") == 0
    folder = tmp_path / "out" / FOLDERS.get(task, task.upper())
    loaded = load_task(f"glue/{task}", tmp_path / "out")
    columns, names = GLUE[task]
    assert [example.texts for example in loaded.train] == [tuple(f"train {c} {i}" for c in columns) for i in range(6)]
    assert loaded.test == loaded.dev
    if names is None:
        assert {example.label for example in loaded.train} == {3.8}
    elif names[0] in loaded.labels:
        assert [example.label for example in loaded.train] == [names[i % len(names)] for i in range(6)]
    else:
        assert [example.label for example in loaded.train] == [str(i % 2) for i in range(6)]
    record = json.loads((folder / "prepare.json").read_text())
    printed = capsys.readouterr().out
    files = sorted(path.name for path in folder.iterdir() if path.name != "prepare.json")
    dev = ["dev_matched.tsv", "dev_mismatched.tsv"] if task == "mnli" else ["dev.tsv"]
    assert files == sorted(record["files"]) == [*dev, "train.tsv"]
    for name in files:
        entry = record["files"][name]
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert (entry["sha256"], entry["rows"]) == (digest, 6 if name == "train.tsv" else 4)
        assert f"{folder / name}  {entry['rows']} rows  sha256 {digest}\n" in printed


def test_glue_columns(tmp_path: Path):
    expected = {
        "cola": "-\t0\t*\ttrain sentence 0",
        "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "rte": "index\tsentence1\tsentence2\tlabel",
        "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    }
    for task, first in expected.items():
        source = glue(tmp_path / task, task)
        assert prepare("--task", f"glue/{task}", "--format", "glue", "--source", source, "--out_dir", tmp_path / "out") == 0
        assert lines(tmp_path / "out" / FOLDERS.get(task, task.upper()) / "train.tsv")[0] == first


def test_the_same_task_in_the_other_layouts(tmp_path: Path):
    source = glue(tmp_path / "source", "rte")
    for layout in ("gym", "jsonl"):
        assert prepare("--task", "glue/rte", "--format", layout, "--source", source, "--out_dir", tmp_path / layout) == 0
    assert lines(tmp_path / "gym/glue-rte/glue-rte_train.tsv")[:2] == [
        "sentence 1: train sentence1 0 [SEP] sentence 2: train sentence2 0\tentailment",
        "sentence 1: train sentence1 1 [SEP] sentence 2: train sentence2 1\tnot_entailment",
    ]
    first = {"sentence1": "train sentence1 0", "sentence2": "train sentence2 0", "label": "entailment"}
    assert json.loads(lines(tmp_path / "jsonl/RTE/train.jsonl")[0]) == first
    # no labelled test: the validation rows are divided
    assert [len(lines(tmp_path / f"gym/glue-rte/glue-rte_{split}.tsv")) for split in ("dev", "test")] == [2, 2]
    assert len(load_task("gym/glue-rte", tmp_path / "gym").train) == 6


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "one json"])
def test_domain_tasks_from_files(tmp_path: Path, kind: str):
    rows = {
        split: [{"text": f'{split} "{i}", x', "label": "UPREGULATOR"} for i in range(3)] for split in ("train", "dev", "test")
    }
    source = tmp_path / "source"
    source.mkdir()
    if kind == "one json":
        source = source / "all.json"
        source.write_text(json.dumps(rows), encoding="utf-8")
    else:
        for split, items in rows.items():
            part = datasets.Dataset.from_list(items)
            path = str(source / f"{split}.{kind}")
            if kind == "csv":
                part.to_csv(path, index=False)
            else:
                part.to_json(path, lines=kind == "jsonl")
    assert prepare("--task", "chemprot", "--format", "jsonl", "--source", source, "--out_dir", tmp_path / "out") == 0
    for split, items in rows.items():
        assert [json.loads(line) for line in lines(tmp_path / f"out/chemprot/{split}.jsonl")] == items
    assert len(load_task("chemprot", tmp_path / "out").test) == 3


def test_another_name_of_a_column(tmp_path: Path):
    rows = [{"string": "a", "label": 1}, {"string": "b", "label": 2}]
    names = ["method", "background", "result"]  # the order of the hub is not the task's
    source = save(tmp_path / "source", {"label": names}, train=rows, validation=rows, test=rows)
    assert prepare("--task", "scicite", "--format", "jsonl", "--source", source, "--out_dir", tmp_path / "out") == 0
    assert [json.loads(line) for line in lines(tmp_path / "out/scicite/dev.jsonl")] == [
        {"text": "a", "label": "background"},
        {"text": "b", "label": "result"},
    ]


@pytest.mark.parametrize("task", ["acl-arc", "scierc"])
def test_text_form_of_published_files(tmp_path: Path, task: str):
    shared = Path(os.environ.get("DELTATUNE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if not (shared / "gym").is_dir():
        pytest.skip(f"no real data: {shared} is absent (DELTATUNE_DATA names it)")
    words = ("--task", task, "--format", "gym", "--source", shared / "domain" / task, "--out_dir", tmp_path)
    assert prepare(*words) == 0
    for split in ("train", "dev", "test"):
        published = shared / "gym" / task / f"{task}_{split}.tsv"
        assert sorted(lines(tmp_path / task / published.name)) == sorted(lines(published))


def test_rows_are_held_out_where_there_is_no_validation_split(tmp_path: Path):
    rows = [{"text": f"t{i}", "label": i // 10} for i in range(20)]
    source = save(tmp_path / "source", {"label": ["neg", "pos"]}, train=rows, test=rows[:4])
    assert prepare("--task", "imdb", "--format", "jsonl", "--source", source, "--out_dir", tmp_path / "out") == 0
    task = load_task("imdb", tmp_path / "out")
    assert (len(task.train), len(task.dev), len(task.test), task.labels) == (16, 4, 4, ("neg", "pos"))
    assert not {example.texts for example in task.train} & {example.texts for example in task.dev}
    note = json.loads((tmp_path / "out/imdb/prepare.json").read_text())["files"]["dev.jsonl"]["notes"]
    assert note == ["no validation split: 4 rows of train, drawn at random, are dev"]


def test_white_space_that_ends_fields_becomes_blanks(tmp_path: Path):
    rows = [{"sentence": "a\tb\nc", "label": 1}]
    source = save(tmp_path / "source", train=rows, validation=rows)
    assert prepare("--task", "glue/sst2", "--format", "glue", "--source", source, "--out_dir", tmp_path / "out") == 0
    assert lines(tmp_path / "out/SST-2/train.tsv") == ["sentence\tlabel", "a b c\t1"]


def test_every_recipe_is_well_formed(golden):
    names = recipe_names()
    assert set(golden.case("ensemble", "tasks.json", "qa_tasks")) <= set(names["gym"])
    for name in (*names["builtin"], *names["gym"]):
        assert find_recipe(name, "gym")[0].columns
    for name in ("cola", "sst-2", "mrpc", "qqp", "sts-b", "mnli", "qnli", "rte"):
        assert find_recipe(f"glue/{name}", "glue")[0].glue


@pytest.mark.parametrize(
    ("task", "layout", "message"),
    [
        (
            "paws",
            "gym",
            "task paws: its text form is not published with the papers, so there is no recipe; give --task RECIPE.yaml",
        ),
        ("boolk", "gym", "unknown task 'boolk'; near ones: boolq, openbookqa; or give --task RECIPE.yaml"),
        ("boolq", "glue", "task boolq has no glue layout; its format: gym"),
        ("chemprot", "glue", "task chemprot has no glue layout; its formats: gym, jsonl"),
    ],
)
def test_no_recipe(task: str, layout: str, message: str):
    with pytest.raises(DeltatuneError) as error:
        find_recipe(task, layout)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "source/train.jsonl line 1: no column 'label'; recipe chemprot needs text, label"),
        ([{"text": "a", "label": "X"}], "source/train.jsonl line 1: unknown label 'X'; known: activator, "),
        ([{"text": "a", "label": None}], "source: no split 'train' with labelled rows; its splits: train"),
        ([{"text": {}, "label": "AGONIST"}], "source/train.jsonl line 1: expected a text, got '{}'"),
    ],
)
def test_bad_rows_write_nothing(tmp_path: Path, monkeypatch, capsys, rows: list[dict], message: str):
    monkeypatch.chdir(tmp_path)
    Path("source").mkdir()
    Path("source/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert prepare("--task", "chemprot", "--format", "jsonl", "--source", "source", "--out_dir", "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"deltatune prepare: error: {message}")
    assert error.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "./none"], "no such file or folder: ./none"),
        ([], "task chemprot: no data set of the hub is known; give --source, a folder or a file"),
        (["--source", ".", "--k", "4"], "--k samples format gym, not jsonl; use `deltatune fewshot` on the whole data set"),
        (["--source", "."], ". holds no saved data set and no .jsonl, .json or .csv files"),
        (["--source", ".", "--test", "validation"], "--test validation goes with a few-shot sample; give --k"),
    ],
)
def test_one_line_about_what_is_wrong(tmp_path: Path, monkeypatch, capsys, words: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    assert prepare("--task", "chemprot", "--format", "jsonl", "--out_dir", "out", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"deltatune prepare: error: {message}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept_unless_it_may_be_overwritten(tmp_path: Path, capsys):
    source = glue(tmp_path / "source", "rte")
    words = ("--task", "glue/rte", "--format", "glue", "--source", source, "--out_dir", tmp_path)
    assert prepare(*words) == prepare(*words) == 0
    (tmp_path / "RTE/dev.tsv").write_text("mine")
    (tmp_path / "RTE/own.txt").write_text("mine")
    capsys.readouterr()
    assert prepare(*words) == 2
    assert capsys.readouterr().err.startswith(f"deltatune prepare: error: {tmp_path / 'RTE/dev.tsv'} holds something else")
    assert (tmp_path / "RTE/dev.tsv").read_text() == "mine"
    assert prepare(*words, "--overwrite") == 0
    assert lines(tmp_path / "RTE/dev.tsv")[0] == "index\tsentence1\tsentence2\tlabel"
    assert (tmp_path / "RTE/own.txt").read_text() == "mine"
