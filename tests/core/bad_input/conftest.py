"""A bundled example that tests damage, and a refusal that has to leave every file as it was."""

from __future__ import annotations

import shutil

import pytest

from deltatune.core.files import write_text

TABLE = "reader: tsv\ntexts: [text]\nlabel: label\nlabels: [negative, positive]\nmetric: accuracy\n"
ROWS = "text\tlabel\na dull song\tnegative\na lovely soup\tpositive\n"


def listing(folder):
    """Every path below `folder`, and of files the size and when they were written."""
    paths = {path: path.stat() for path in sorted(folder.rglob("*"))}
    return [(str(path), *([about.st_size, about.st_mtime_ns] if path.is_file() else [])) for path, about in paths.items()]


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
def untouched(refused, tmp_path):
    """`untouched(*words)`: the line of a refusal that leaves every file as it was."""

    def words_of(*words):
        before = listing(tmp_path)
        line = refused(*words)
        assert listing(tmp_path) == before
        assert "Traceback" not in line
        return line

    return words_of


@pytest.fixture
def tune():
    """`tune(folder, *extra)`: the words that tune the example in a folder."""

    def words(folder, *extra):
        common = ("tune", "--model", folder / "model", "--task", folder / "task.yaml", "--device", "cpu", "--delta", "LoRA")
        return (*common, "--train.steps", 2, "--train.batch_size", 4, "--out_dir", folder.parent / "out", *extra)

    return words
