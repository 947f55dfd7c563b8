"""Few-shot samples by the published procedures, as pure functions on labels, and the folders they are written to.

Two procedures: `kshot` of LM-BFF (ACL 2021) and Delta Tuning (Nature Machine Intelligence 2023) for tab- and comma-separated
tasks, and `sample_by_class` of recyclable tuning (Findings of ACL 2023) for JSON lines. Both use numpy's legacy generator, whose
streams never change; with it the published files come out byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from deltatune.core.data.config import TaskConfig
from deltatune.core.data.fewshot_files import SourceTable, copied_tests, read_json_rows, read_table, rows_text
from deltatune.core.data.load import find_folder
from deltatune.core.data.names import builtin_task
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_text, replacing, write_text

SEEDS = (100, 13, 21, 42, 87)
"""The seeds of the published samples, in the order of their making, which matters for CoLA (`shuffled_orders`)."""

Mode = Literal["k-shot", "k-shot-10x"]
_DEV_TIMES: dict[Mode, int] = {"k-shot": 1, "k-shot-10x": 10}
_TASK_ORDER = (
    "SST-2",
    "sst-5",
    "mr",
    "cr",
    "mpqa",
    "subj",
    "trec",
    "CoLA",
    "MNLI",
    "SNLI",
    "QNLI",
    "RTE",
    "MRPC",
    "QQP",
    "STS-B",
)
_FILE_ORDER = ("train", "dev", "dev_matched", "test", "test_matched", "test_mismatched")


class Sample(NamedTuple):
    """Row numbers (from 0) of a sample, in the order in which they are written."""

    train: list[int]
    dev: list[int]


class Checksums(NamedTuple):
    """Files of a checksum list, by what was found: paths relative to the folder of the list."""

    equal: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]


def shuffled_orders(count: int, seeds: Sequence[int], *, chained: bool = False) -> dict[int, list[int]]:
    """For each seed, an order of `count` rows.

    Args:
        count: number of rows.
        seeds: any numbers from 0 to 2^32 - 1.
        chained: shuffle the order of the seed before instead of the file's. The published CoLA samples were made so, by a slip
           : they come out for the seeds `SEEDS` in this order.
    """
    orders: dict[int, list[int]] = {}
    order = list(range(count))
    for seed in seeds:
        order = list(order) if chained else list(range(count))
        _generator(seed).shuffle(order)
        orders[seed] = order
    return orders


def kshot(labels: Sequence[str | None], order: Sequence[int], k: int, *, dev_times: int = 1) -> Sample:
    """The first `k` rows of each label in `order` to train on, the next `k * dev_times` for development.

    Args:
        labels: label of each row, in file order; None leaves the row out.
        order: of the rows, see `shuffled_orders`.
        k: rows of each label.
        dev_times: how many times larger the development part is.

    Returns:
        Rows grouped by label, labels in the order of their first appearance in `order`; fewer rows of a label where there are no
        more.
    """
    groups: dict[str, list[int]] = {}
    for row in order:
        label = labels[row]
        if label is not None:
            groups.setdefault(label, []).append(row)
    train = [row for rows in groups.values() for row in rows[:k]]
    return Sample(train, [row for rows in groups.values() for row in rows[k : k + k * dev_times]])


def sample_by_class(train_labels: Sequence[str], dev_labels: Sequence[str], shot: int, seed: int) -> Sample:
    """At most `shot` rows of each class of the training and of the development file, in random order.

    One generator serves development first, then training. Classes come in the order of first appearance; a class of at most
    `shot` rows is taken whole without a draw, of a larger one the first `shot` of a random permutation; then all are shuffled
    together.
    """
    generator = _generator(seed)

    def drawn(labels: Sequence[str]) -> list[int]:
        groups: dict[str, list[int]] = {}
        for row, label in enumerate(labels):
            groups.setdefault(label, []).append(row)
        rows: list[int] = []
        for group in groups.values():
            rows += group if len(group) <= shot else [group[i] for i in generator.permutation(len(group))[:shot].tolist()]
        generator.shuffle(rows)
        return rows

    dev = drawn(dev_labels)
    return Sample(drawn(train_labels), dev)


def write_fewshot(
    task: str | TaskConfig,
    data_dir: Path,
    out_dir: Path,
    k: int = 16,
    seeds: Sequence[int] = SEEDS,
    mode: Mode = "k-shot",
    published_order: bool = False,
) -> list[Path]:
    """Write the samples of a task as `<out_dir>/<mode>/<task folder>/<k>-<seed>/{train,dev,test}.*`.

    `<out_dir>/<mode>/checksum` lists the checksums of all samples there. Tab- and comma-separated tasks are sampled by `kshot`,
    JSON lines by `sample_by_class` (there `mode` must be `k-shot`). Test is the original development file (comma-separated and
    JSON tasks: the original test file), never a sample.

    Args:
        task: a built-in name or a configuration.
        data_dir: the task's folder, or one that holds it.
        out_dir: where to write.
        k: examples of each class; the values of a regression count as two classes, below and from the middle of their range.
        seeds: one sample for each.
        mode: `k-shot-10x` for a development part ten times as large.
        published_order: chain the shuffles of CoLA over `seeds` as the published files did (see `shuffled_orders`).

    Returns:
        The folders written.

    Raises:
        DeltatuneError: a file is missing or malformed, a class has fewer than k rows for training or development, k is below 1.
    """
    config = builtin_task(task) if isinstance(task, str) else task
    if k < 1:
        raise DeltatuneError(f"k must be at least 1, got {k}")
    if mode not in _DEV_TIMES:
        raise DeltatuneError(f"unknown mode {mode!r}; known modes: {', '.join(_DEV_TIMES)}")
    names = [config.file("train"), config.file("dev"), config.file("test")]
    if len(set(names)) < len(names):
        raise DeltatuneError(f"task {config.name}: train, dev and test must be three files, got {', '.join(names)}")
    source = find_folder(config, data_dir)
    root = out_dir / mode
    folder = root / (config.folders[0] if config.folders else config.name)
    if config.reader == "jsonl":
        samples = _json_samples(config, source, k, seeds, mode)
    elif config.reader in ("tsv", "csv"):
        samples = _table_samples(config, source, k, seeds, mode, published_order)
    else:
        raise DeltatuneError(
            f"task {config.name}: few-shot samples are made of tsv, csv and jsonl files, not of reader {config.reader}"
        )
    written = []
    for seed, files in samples.items():
        with replacing(folder / f"{k}-{seed}") as target:
            target.mkdir()
            for name, text in files.items():
                (target / name).write_bytes(text.encode("utf-8"))
        written.append(folder / f"{k}-{seed}")
    write_checksums(root)
    return written


def write_checksums(folder: Path) -> Path:
    """Write `<folder>/checksum`, the md5 sums of all `<task>/<k>-<seed>/<file>`, as `md5sum -c` reads them; its path."""
    paths = sorted((path for path in folder.glob("*/*/*") if path.is_file() and path.stem in _FILE_ORDER), key=_published_rank)
    lines = [f"{_md5(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    write_text(folder / "checksum", "".join(lines))
    return folder / "checksum"


def verify_checksums(folder: Path) -> Checksums:
    """Compare the files of `folder` with its list `checksum`.

    Raises:
        DeltatuneError: no list, or a line that is not a sum, two spaces and a path.
    """
    found: dict[str, list[str]] = {"equal": [], "different": [], "missing": []}
    for number, line in enumerate(read_text(folder / "checksum").splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if len(digest) != 32 or not separator or not name:
            raise DeltatuneError(f"{folder / 'checksum'} line {number}: expected md5 sum, two spaces and a path, got {line!r}")
        path = folder / name
        found["missing" if not path.is_file() else "equal" if _md5(path) == digest else "different"].append(name)
    return Checksums(*(tuple(found[name]) for name in Checksums._fields))


def _table_samples(
    config: TaskConfig, source: Path, k: int, seeds: Sequence[int], mode: Mode, published_order: bool
) -> dict[int, dict[str, str]]:
    """Contents of the files of every seed, by name."""
    table = read_table(source / config.file("train"), config)
    _check_enough(table, config, 2 * k)
    chained = published_order and config.name == "glue/cola"
    tests = copied_tests(source, config)
    samples = {}
    for seed, order in shuffled_orders(len(table.rows), seeds, chained=chained).items():
        sample = kshot(table.labels, order, k, dev_times=_DEV_TIMES[mode])
        samples[seed] = {
            config.file("train"): table.text(sample.train),
            config.file("dev"): table.text(sample.dev),
            **tests,
        }
    return samples


def _json_samples(config: TaskConfig, source: Path, k: int, seeds: Sequence[int], mode: Mode) -> dict[int, dict[str, str]]:
    if mode != "k-shot":
        raise DeltatuneError(f"task {config.name}: mode {mode} is for tsv and csv tasks; take k-shot")
    train, dev = read_json_rows(source / config.file("train"), config), read_json_rows(source / config.file("dev"), config)
    tests = copied_tests(source, config)
    samples = {}
    for seed in seeds:
        sample = sample_by_class(train.labels, dev.labels, k, seed)
        samples[seed] = {
            config.file("train"): rows_text(train, sample.train),
            config.file("dev"): rows_text(dev, sample.dev),
            **tests,
        }
    return samples


def _check_enough(table: SourceTable, config: TaskConfig, needed: int) -> None:
    for label in dict.fromkeys(table.labels):
        count = table.labels.count(label)
        if label is not None and count < needed:
            raise DeltatuneError(
                f"task {config.name}: class {label!r} has {count} rows in {table.path}, "
                f"{needed} are needed for training and development; lower k"
            )


def _generator(seed: int) -> np.random.RandomState:
    if not 0 <= seed < 2**32:
        raise DeltatuneError(f"a sample's seed must be from 0 to {2**32 - 1}, got {seed}")
    return np.random.RandomState(seed)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _published_rank(path: Path) -> tuple[int, str, tuple[int, ...], int]:
    task, sample = path.parts[-3], path.parts[-2]
    rank = _TASK_ORDER.index(task) if task in _TASK_ORDER else len(_TASK_ORDER)
    numbers = tuple(int(part) for part in sample.split("-") if part.isdigit())
    return rank, task, numbers, _FILE_ORDER.index(path.stem)
