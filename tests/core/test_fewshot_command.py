"""`deltatune fewshot`: the published files byte for byte, what is recorded, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from deltatune.core.cli import main
from deltatune.core.data import load_task

SEEDS = (100, 13, 21, 42, 87)


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the checkout, or in the folder that DELTATUNE_DATA names."""
    folder = Path(os.environ.get("DELTATUNE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if not (folder / "k-shot").is_dir():
        pytest.skip(f"no real data: {folder} is absent (DELTATUNE_DATA names it)")
    return folder


@pytest.fixture
def originals(golden, tmp_path: Path) -> Path:
    for name, lines in golden("combos", "kshot.json")["inputs"].items():
        path = tmp_path / "original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
    return tmp_path / "original"


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    folder = tmp_path / "domain" / "imdb"
    folder.mkdir(parents=True)
    for split, count in (("train", 20), ("dev", 12), ("test", 4)):
        rows = [{"text": f"{split} {i}", "label": "ab"[i % 2], "metadata": {"id": i}} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder.parent


def draw(*words: object) -> int:
    return main(["fewshot", *map(str, words)])


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("task", ["RTE", "CoLA"])
def test_published_files_seed_by_seed(shared_data: Path, tmp_path: Path, task: str):
    equal = 0
    for seed in SEEDS:  # each drawn alone: CoLA's order of rows must not need the other runs
        out = tmp_path / str(seed)
        assert draw("--task", f"glue/{task}", "--data_dir", shared_data / "glue", "--seed", seed, "--out_dir", out) == 0
        for split in ("train", "dev", "test"):
            # The one test file is kept once, under the first seed.
            published = shared_data / "k-shot" / task / f"16-{100 if split == 'test' else seed}" / f"{split}.tsv"
            assert (out / task / f"16-{seed}" / f"{split}.tsv").read_bytes() == published.read_bytes()
            equal += 1
    assert equal == 15


def test_cola_replays_the_seeds_before_and_the_clean_order_does_not(golden, originals: Path, tmp_path: Path, capsys):
    run = golden("combos", "kshot.json")["runs"][0]
    words = ("--task", "glue/cola", "--data_dir", originals, "--k", 3, "--seed", 21)
    assert draw(*words, "--out_dir", tmp_path / "published") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'published' / 'CoLA' / '3-21'}\n"
    for split in ("train", "dev", "test"):
        written = (tmp_path / f"published/CoLA/3-21/{split}.tsv").read_bytes()
        assert hashlib.md5(written, usedforsecurity=False).hexdigest() == run["outputs"][f"CoLA/3-21/{split}.tsv"]["md5"]
    assert draw(*words, "--out_dir", tmp_path / "file", "--order", "file") == 0
    clean = (tmp_path / "file/CoLA/3-21/train.tsv").read_text()
    assert clean != (tmp_path / "published/CoLA/3-21/train.tsv").read_text()
    for order, chain in (("published", [100, 13, 21]), ("file", [21])):
        record = json.loads((tmp_path / order / "CoLA/run.json").read_text())
        assert (record["what"], record["task"]) == ("few-shot samples", "glue/cola")
        sample = record["samples"]["3-21"]
        assert (sample["k"], sample["seed"], sample["order"], sample["shuffled_by"]) == (3, 21, order, chain)
        assert len(sample["source"]["train.tsv"]) == 64
        assert "deltatune-core" in record["versions"]


def test_a_seed_outside_the_list_starts_from_the_file(originals: Path, tmp_path: Path):
    words = ("--task", "glue/cola", "--data_dir", originals, "--k", 3, "--seed", 5, "--out_dir")
    assert draw(*words, tmp_path / "a") == draw(*words, tmp_path / "b", "--order", "file") == 0
    assert files(tmp_path / "a/CoLA/3-5") == files(tmp_path / "b/CoLA/3-5")


def test_several_seeds_by_one_command_or_one_by_one(originals: Path, tmp_path: Path):
    words = ("--task", "glue/rte", "--data_dir", originals, "--k", 3)
    assert draw(*words, "--seed", "[13,21]", "--out_dir", tmp_path / "a") == 0
    for seed in (13, 21):
        assert draw(*words, "--seed", seed, "--out_dir", tmp_path / "b") == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert set(json.loads((tmp_path / "a/RTE/run.json").read_text())["samples"]) == {"3-13", "3-21"}


def test_the_sampler_of_json_lines(domain: Path, tmp_path: Path):
    words = ("--task", "imdb", "--data_dir", domain, "--k", 4, "--seed", 20, "--out_dir")
    assert draw(*words, tmp_path / "a") == draw(*words, tmp_path / "b", "--sampler", "per-label") == 0
    folder = tmp_path / "a/imdb/4-20"
    assert sorted(path.name for path in folder.iterdir()) == ["dev_few4.jsonl", "test.jsonl", "train_few4.jsonl"]
    assert files(folder) == files(tmp_path / "b/imdb/4-20")
    assert (folder / "test.jsonl").read_bytes() == (domain / "imdb/test.jsonl").read_bytes()
    task = load_task("imdb", folder)
    assert (len(task.train), len(task.dev), len(task.test)) == (8, 8, 4)
    assert {example.texts[0].split()[0] for example in task.dev} == {"dev"}
    # the other sampler takes both parts from the training file
    assert draw(*words, tmp_path / "c", "--sampler", "kshot") == 0
    task = load_task("imdb", tmp_path / "c/imdb/4-20")
    assert {example.texts[0].split()[0] for example in task.dev} == {"train"}


def test_what_is_there_is_kept_unless_it_may_be_overwritten(originals: Path, tmp_path: Path, capsys):
    words = ("--task", "glue/rte", "--data_dir", originals, "--k", 3, "--seed", 13, "--out_dir", tmp_path / "out")
    assert draw(*words) == draw(*words) == 0
    folder = tmp_path / "out/RTE/3-13"
    assert capsys.readouterr().out.splitlines() == [str(folder), f"{folder} (as it was)"]
    (folder / "train.tsv").write_text("mine")
    before = files(tmp_path / "out")
    assert draw(*words[:-4], "--seed", "[100,13]", *words[-2:]) == 2
    message = f"deltatune fewshot: error: {folder} holds another sample; choose another --out_dir, or --overwrite it\n"
    assert capsys.readouterr().err == message
    assert files(tmp_path / "out") == before
    assert draw(*words, "--overwrite") == 0
    assert (folder / "train.tsv").read_text() != "mine"


def test_verify_alone(originals: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    draw("--task", "glue/rte", "--data_dir", originals, "--k", 3, "--seed", 13, "--out_dir", out)
    capsys.readouterr()
    assert draw("--verify", out / "checksum") == 0
    assert capsys.readouterr().out == "3 equal, 0 different, 0 missing\n"
    (out / "RTE/3-13/dev.tsv").write_text("x")
    (out / "RTE/3-13/test.tsv").unlink()
    assert draw("--verify", out / "checksum") == 2
    lines = ["different: RTE/3-13/dev.tsv", "missing: RTE/3-13/test.tsv", "1 equal, 1 different, 1 missing"]
    assert capsys.readouterr().out.splitlines() == lines
    # a list elsewhere: its paths are relative to --out_dir
    (out / "checksum").rename(tmp_path / "sums")
    assert draw("--verify", tmp_path / "sums", "--out_dir", out) == 2
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--task names what to sample, such as glue/rte (or --verify a list of checksums)"),
        (["--task", "glue/rte"], "task glue/rte needs --data_dir, the folder with the files"),
        (["--task", "glue/rte", "--data_dir", "."], "task glue/rte needs --out_dir, where to write"),
        (["--task", "glue/rtf", "--data_dir", ".", "--out_dir", "x"], "unknown task 'glue/rtf'; near ones: glue/rte"),
        (["--task", "glue/rte", "--data_dir", "none", "--out_dir", "x"], "no such folder: none"),
        (["--task", "glue/rte", "--data_dir", ".", "--out_dir", "x", "--seed", "[]"], "--seed is an empty list"),
        (["--task", "glue/rte", "--data_dir", ".", "--out_dir", "x", "--k", "0"], "k must be at least 1, got 0"),
        (["--verify", "none"], "no such file: none"),
    ],
)
def test_one_line_about_what_is_wrong(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert draw(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"deltatune fewshot: error: {message}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
