"""A task that a user describes, as docs/data.md shows it, from a whole command; the formats of its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deltatune.core.files import read_json, write_text

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
ROWS = [("it is a great movie", "it was good", "supports"), ("the film was bad", "great", "refutes")] * 6


def documented():
    """The task file in docs/data.md."""
    section = DOCS.read_text(encoding="utf-8").partition("## A task of your own")[2]
    return re.search(r"```yaml\n(.*?)```", section, re.S)[1]


def table(folder, *splits):
    for split in splits:
        lines = ["premise\tclaim\tverdict", *("\t".join(row) for row in ROWS)]
        write_text(folder / f"{split}.tsv", "\n".join(lines) + "\n")


def tune(task, model, out, *extra):
    words = (
        "tune",
        "--model",
        model,
        "--task",
        task,
        "--device",
        "cpu",
        "--delta",
        "LoRA",
        "--delta.rank",
        2,
        "--train.steps",
        2,
    )
    return (*words, "--train.batch_size", 4, "--out_dir", out, *extra)


@pytest.mark.parametrize("name", ["bert-head", "t5-text"])
def test_the_documented_task_file_runs(folders, command, tmp_path, name):
    write_text(tmp_path / "mine.yaml", documented())
    table(tmp_path, "train", "dev")
    command(*tune(tmp_path / "mine.yaml", folders[name], tmp_path / "out"))
    facts = read_json(tmp_path / "out" / "run.json")
    assert facts["data"]["test"] == facts["data"]["dev"] == len(ROWS)
    assert facts["notes"] == ["no test file: the development examples serve as test"]
    command("evaluate", "--run", tmp_path / "out", "--device", "cpu")
    rows = [{"premise": "a good film", "claim": "it is good"}]
    write_text(tmp_path / "in.jsonl", json.dumps(rows[0]) + "\n")
    words = ("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--device", "cpu")
    command("predict", "--run", tmp_path / "out", *words)
    assert "prediction" in read_json(tmp_path / "out.jsonl")


def written(folder, reader, rows):
    """The rows as the files, or the saved data set, that `reader` reads."""
    import csv

    import datasets

    if reader == "hub":
        saved = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split in ("train", "validation", "test")})
        saved.save_to_disk(str(folder / "saved"))
    for split in ("train", "dev", "test"):
        path = folder / f"{split}.{reader}"
        if reader == "csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif reader == "jsonl":
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        elif reader == "tsv":
            table(folder, split)


def test_every_reader_gives_the_same_run(folders, command, tmp_path):
    rows = [dict(zip(("premise", "claim", "verdict"), row, strict=True)) for row in ROWS]
    found = {}
    for reader in ("tsv", "csv", "jsonl", "hub"):
        task = tmp_path / reader / "mine.yaml"
        write_text(task, f"reader: {reader}\nmetric: accuracy\ntexts: [premise, claim]\nlabel: verdict\nhub: saved\n")
        written(task.parent, reader, rows)
        command(*tune(task, folders["bert-head"], task.parent / "out"))
        scores = read_json(task.parent / "out" / "run.json")["scores"]
        found[reader] = (scores["test"]["n"], scores["test"]["loss"])
    assert set(found.values()) == {(len(ROWS), found["tsv"][1])}
