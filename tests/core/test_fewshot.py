"""Few-shot samples: the published procedures, their files and checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deltatune.core.data import (
    Checksums,
    Draw,
    builtin_task,
    kshot,
    load_task,
    sample_by_class,
    shuffled_orders,
    verify_checksums,
    write_fewshot,
)
from deltatune.core.errors import DeltatuneError

TASKS = {"MNLI": "glue/mnli", "SNLI": "snli"}


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the checkout, or in the folder that DELTATUNE_DATA names."""
    folder = Path(os.environ.get("DELTATUNE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if not (folder / "k-shot").is_dir():
        pytest.skip(f"no real data: {folder} is absent (DELTATUNE_DATA names it)")
    return folder


def builtin(folder: str) -> str:
    return TASKS.get(folder) or (folder if folder.islower() else f"glue/{folder}")


def folders(*args) -> list[Path]:
    return [sample.folder for sample in write_fewshot(*args)]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def originals(golden, tmp_path: Path) -> Path:
    for name, lines in golden("combos", "kshot.json")["inputs"].items():
        path = tmp_path / "original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
    return tmp_path / "original"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_published_procedure(golden, originals: Path, tmp_path: Path, number: int):
    run = golden("combos", "kshot.json")["runs"][number]
    root = tmp_path / run["mode"]
    draw = Draw(run["k"], chain=tuple(run["seeds"]), dev_times={"k-shot": 1, "k-shot-10x": 10}[run["mode"]])
    for task in run["tasks"]:
        write_fewshot(builtin(task), originals, root, draw, run["seeds"])
    for name, expected in run["outputs"].items():
        assert md5(root / name) == expected["md5"], name
        if "content" in expected:
            assert (root / name).read_text(encoding="utf-8") == expected["content"]
    written = {path.relative_to(root).as_posix() for path in root.rglob("*.?sv")}
    assert written == set(run["outputs"])
    found = verify_checksums(root / "checksum")
    assert found == Checksums(equal=found.equal, different=(), missing=())
    assert set(found.equal) == written


def test_cola_does_not_depend_on_other_seeds_unless_asked(golden, originals: Path, tmp_path: Path):
    sources = [line + "\n" for line in golden("combos", "kshot.json")["inputs"]["CoLA/train.tsv"]]
    (alone,) = folders("glue/cola", originals, tmp_path / "alone", Draw(3, chain=()), [13])
    several = folders("glue/cola", originals, tmp_path / "several", Draw(3, chain=()), [100, 13])[1]
    assert (alone / "train.tsv").read_text() == (several / "train.tsv").read_text()
    order = shuffled_orders(len(sources), [13])[13]
    rows = kshot([line.split("\t")[1] for line in sources], order, 3).train
    assert (alone / "train.tsv").read_text() == "".join(sources[row] for row in rows)


def test_sampler_of_recyclable_tuning(golden, tmp_path: Path):
    data = golden("recyclable", "few_shot_sampler.json")
    labels = {split: [row["label"] for row in data[f"{split}_rows"]] for split in ("train", "dev")}
    for case in data["cases"]:
        assert sample_by_class(labels["train"], labels["dev"], case["shot"], case["seed"]) == (case["train"], case["dev"])
    for split in ("train", "dev"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data[f"{split}_rows"])
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    first = data["cases"][0]
    config = replace(builtin_task("imdb"), folders=("own",))
    (folder,) = folders(config, tmp_path, tmp_path / "out", Draw(first["shot"]), [first["seed"]])
    assert folder == tmp_path / "out" / "own" / "2-20"
    assert (folder / "train_few2.jsonl").read_text() == first["train_text"]
    assert (folder / "dev_few2.jsonl").read_text() == first["dev_text"]


@pytest.mark.parametrize("task", ["RTE", "CoLA"])
def test_published_files_byte_for_byte(shared_data: Path, tmp_path: Path, task: str):
    write_fewshot(f"glue/{task}", shared_data / "glue", tmp_path)
    compared = 0
    for seed in (100, 13, 21, 42, 87):
        for split in ("train", "dev", "test"):
            # The one test file is kept once, under the first seed.
            published = shared_data / "k-shot" / task / f"16-{100 if split == 'test' else seed}" / f"{split}.tsv"
            assert (tmp_path / task / f"16-{seed}" / f"{split}.tsv").read_bytes() == published.read_bytes()
            compared += 1
    assert compared == 15


def test_chemprot_sample_takes_small_classes_whole(shared_data: Path, tmp_path: Path):
    (folder,) = folders("chemprot", shared_data / "domain", tmp_path, Draw(32), [20])
    task = load_task("chemprot", folder)
    assert len(task.train) == 348
    assert len(task.test) == 3469


def test_own_file_names_stay_apart(originals: Path, tmp_path: Path):
    (originals / "RTE" / "dev.tsv").rename(originals / "RTE" / "valid.tsv")
    config = replace(builtin_task("glue/rte"), dev="valid.tsv")
    (folder,) = folders(config, originals, tmp_path, Draw(2), [13])
    assert len(load_task(config, folder).dev) == 4
    assert (folder / "test.tsv").read_text() == (originals / "RTE" / "valid.tsv").read_text()


def test_values_count_as_two_classes(originals: Path, tmp_path: Path):
    (folder,) = folders("glue/sts-b", originals, tmp_path, Draw(3), [13])
    values = [example.label for example in load_task("glue/sts-b", folder).train]
    assert sum(value < 2.5 for value in values) == sum(value >= 2.5 for value in values) == 3


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_samples_are_balanced_disjoint_and_repeatable(labels: list[str], k: int, seed: int):
    sample = kshot(labels, shuffled_orders(len(labels), [seed])[seed], k)
    assert not set(sample.train) & set(sample.dev)
    for label, count in Counter(labels).items():
        assert sum(labels[row] == label for row in sample.train) == min(k, count)
        assert sum(labels[row] == label for row in sample.dev) == min(k, max(0, count - k))
    again = kshot(labels, shuffled_orders(len(labels), [5, seed])[seed], k)
    assert again == sample
    drawn = sample_by_class(labels, labels, k, seed)
    assert Counter(labels[row] for row in drawn.train) == {label: min(k, count) for label, count in Counter(labels).items()}
    assert len(set(drawn.dev)) == len(drawn.dev)


def test_line_ends_and_a_missing_one(tmp_path: Path):
    rows = [f"{i}\ttext {i}\tother\t{('entailment', 'not_entailment')[i % 2]}" for i in range(8)]
    (tmp_path / "train.tsv").write_bytes("\r\n".join(["index\tsentence1\tsentence2\tlabel", *rows]).encode())
    (tmp_path / "dev.tsv").write_bytes(b"index\tsentence1\tsentence2\tlabel\r\n0\ta\tb\tentailment")
    (folder,) = folders("glue/rte", tmp_path, tmp_path / "out", Draw(2), [0])
    written = (folder / "train.tsv").read_bytes()
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 5
    assert (folder / "test.tsv").read_bytes() == (tmp_path / "dev.tsv").read_bytes()
    assert len(load_task("glue/rte", folder).train) == 4


def test_checksums_name_what_changed(originals: Path, tmp_path: Path):
    root = tmp_path / "samples"
    write_fewshot("glue/rte", originals, root, Draw(3), [13, 100])
    (root / "RTE/3-13/train.tsv").write_text("changed")
    (root / "RTE/3-100/dev.tsv").unlink()
    found = verify_checksums(root / "checksum")
    assert (found.different, found.missing) == (("RTE/3-13/train.tsv",), ("RTE/3-100/dev.tsv",))
    assert len(found.equal) == 4
    names = [line.split("  ")[1] for line in (root / "checksum").read_text().splitlines()]
    assert names == [f"RTE/3-{seed}/{split}.tsv" for seed in (13, 100) for split in ("train", "dev", "test")]
    (root / "checksum").write_text("no sum\n")
    with pytest.raises(DeltatuneError, match=r"checksum line 1: expected md5 sum, two spaces and a path, got 'no sum'"):
        verify_checksums(root / "checksum")


def test_user_errors(originals: Path, tmp_path: Path):
    with pytest.raises(DeltatuneError, match=r"class '.*' has 6 rows in .*train.tsv, 20 are needed .* lower k"):
        write_fewshot("glue/rte", originals, tmp_path / "out", Draw(10))
    with pytest.raises(DeltatuneError, match="k must be at least 1, got 0"):
        Draw(0)
    with pytest.raises(DeltatuneError, match="seed must be from 0 to 4294967295, got -1"):
        write_fewshot("glue/rte", originals, tmp_path / "out", Draw(2), [-1])
    with pytest.raises(DeltatuneError, match="unknown sampler 'k'; known samplers: kshot, per-label"):
        Draw(2, "k")
    with pytest.raises(DeltatuneError, match="sampler per-label takes jsonl files, not tsv; take kshot"):
        write_fewshot("glue/rte", originals, tmp_path / "out", Draw(2, "per-label"))
    same = replace(builtin_task("glue/rte"), dev="train.tsv")
    with pytest.raises(DeltatuneError, match=r"must be three files, got train.tsv, train.tsv, test.tsv"):
        write_fewshot(same, originals, tmp_path / "out", Draw(2))
    (tmp_path / "boolq_train.tsv").write_text("a\tb\n")
    with pytest.raises(DeltatuneError, match="not of reader gym"):
        write_fewshot("gym/boolq", tmp_path, tmp_path / "out")
    (tmp_path / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n")
    with pytest.raises(
        DeltatuneError, match=r"train.tsv line 2: unknown label 'maybe'; known labels: entailment, not_entailment"
    ):
        write_fewshot("glue/rte", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
