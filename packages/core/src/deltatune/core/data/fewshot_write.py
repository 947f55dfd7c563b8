"""Few-shot samples on disk: `<out_dir>/<task folder>/<k>-<seed>/`, and lists of checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from deltatune.core.data.config import TaskConfig
from deltatune.core.data.fewshot import SEEDS, Sample, kshot, sample_by_class, shuffled_orders
from deltatune.core.data.fewshot_files import SourceTable, copied_tests, read_source
from deltatune.core.data.load import find_folder
from deltatune.core.data.names import builtin_task
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_text, replacing, write_text

SamplerName = Literal["kshot", "per-label"]
_TASK_ORDER = (
    *("SST-2", "sst-5", "mr", "cr", "mpqa", "subj", "trec"),
    *("CoLA", "MNLI", "SNLI", "QNLI", "RTE", "MRPC", "QQP", "STS-B"),
)
_FILE_ORDER = ("train", "dev", "dev_matched", "test", "test_matched", "test_mismatched")


@dataclass(frozen=True)
class Draw:
    """How a sample is drawn.

    Args:
        k: examples of each class; the values of a regression count as two classes, below and from the middle of their range.
        sampler: `kshot` takes training and development examples from the training file; `per-label` (JSON lines only) takes
            them from the two files and names the results `train_few<k>.jsonl`, `dev_few<k>.jsonl`. None takes `per-label` for
            JSON lines, else `kshot`.
        chain: of CoLA, the seeds in the order in which the samples were once made, each shuffling what the one before had left;
            a seed that is not among them starts from the order of the file, and so do all with ().
        dev_times: of `kshot`, how many times larger the development part is.
    """

    k: int = 16
    sampler: SamplerName | None = None
    chain: tuple[int, ...] = SEEDS
    dev_times: int = 1

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("dev_times", self.dev_times)):
            if value < 1:
                raise DeltatuneError(f"{name} must be at least 1, got {value}")
        if self.sampler not in (None, "kshot", "per-label"):
            raise DeltatuneError(f"unknown sampler {self.sampler!r}; known samplers: kshot, per-label")


@dataclass(frozen=True)
class WrittenSample:
    """A sample on disk.

    Args:
        folder: where it is.
        seed: it was drawn with.
        sampler: by which procedure.
        chained: the seeds whose shuffles its order of rows went through, its own last.
        source: sha256 of each file it was taken from, by name.
        new: False if the folder held this very sample before.
    """

    folder: Path
    seed: int
    sampler: SamplerName
    chained: tuple[int, ...]
    source: dict[str, str]
    new: bool


class Checksums(NamedTuple):
    """Files of a checksum list, by what was found: paths as in the list."""

    equal: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]


def write_fewshot(
    task: str | TaskConfig,
    data_dir: Path,
    out_dir: Path,
    draw: Draw | None = None,
    seeds: Sequence[int] = SEEDS,
    overwrite: bool = False,
) -> list[WrittenSample]:
    """Write samples of a task as `<out_dir>/<task folder>/<k>-<seed>/{train,dev,test}.*`, and their sums to `<out_dir>/checksum`.

    Test is the original development file (comma-separated and JSON tasks: the original test file), never a sample. A folder is
    written as a whole or not at all, and none before all were drawn.

    Args:
        task: a built-in name or a configuration.
        data_dir: the task's folder, or one that holds it.
        out_dir: where to write.
        draw: how to draw; by default 16 of each class by the published procedure.
        seeds: one sample for each.
        overwrite: replace folders that hold something else.

    Raises:
        DeltatuneError: a file is missing or malformed, a class has too few rows, or a folder holds something else.
    """
    draw = draw or Draw()
    config = builtin_task(task) if isinstance(task, str) else task
    sampler = _sampler(config, draw)
    names = [config.file("train"), config.file("dev"), config.file("test")]
    if len(set(names)) < len(names):
        raise DeltatuneError(f"task {config.name}: train, dev and test must be three files, got {', '.join(names)}")
    source = find_folder(config, data_dir)
    folder = out_dir / (config.folders[0] if config.folders else config.name)
    chains = {seed: _chain(config, draw, sampler, seed) for seed in seeds}
    samples = _per_label(config, source, draw, seeds) if sampler == "per-label" else _kshot(config, source, draw, chains)
    kept = {seed: _holds(folder / f"{draw.k}-{seed}", files, overwrite) for seed, files in samples.items()}
    for seed, files in samples.items():
        if not kept[seed]:
            with replacing(folder / f"{draw.k}-{seed}") as target:
                target.mkdir()
                for name, text in files.items():
                    (target / name).write_bytes(text.encode("utf-8"))
    write_checksums(out_dir)
    digests = {name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in names if (source / name).is_file()}
    return [WrittenSample(folder / f"{draw.k}-{seed}", seed, sampler, chains[seed], digests, not kept[seed]) for seed in samples]


def write_checksums(folder: Path) -> Path:
    """Write `<folder>/checksum`, the md5 sums of all `<task>/<k>-<seed>/<file>`, as `md5sum -c` reads them; its path."""
    paths = sorted((path for path in folder.glob("*/*/*") if path.is_file() and _split(path) in _FILE_ORDER), key=_published_rank)
    lines = [f"{_md5(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    write_text(folder / "checksum", "".join(lines))
    return folder / "checksum"


def verify_checksums(checksums: Path, folder: Path | None = None) -> Checksums:
    """Compare files with a list of md5 sums.

    Args:
        checksums: the list; each line is a sum, two spaces and a path.
        folder: what the paths are relative to; by default the folder of the list.

    Raises:
        DeltatuneError: no list, an empty one, or a line of another form.
    """
    root = folder or checksums.parent
    found: dict[str, list[str]] = {"equal": [], "different": [], "missing": []}
    for number, line in enumerate(read_text(checksums).splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if len(digest) != 32 or not separator or not name:
            raise DeltatuneError(f"{checksums} line {number}: expected md5 sum, two spaces and a path, got {line!r}")
        path = root / name
        found["missing" if not path.is_file() else "equal" if _md5(path) == digest else "different"].append(name)
    if not any(found.values()):
        raise DeltatuneError(f"{checksums} lists no files; expected lines of md5 sum, two spaces and a path")
    return Checksums(*(tuple(found[name]) for name in Checksums._fields))


def _sampler(config: TaskConfig, draw: Draw) -> SamplerName:
    if config.reader not in ("tsv", "csv", "jsonl"):
        raise DeltatuneError(
            f"task {config.name}: few-shot samples are made of tsv, csv and jsonl files, not of reader {config.reader}"
        )
    sampler: SamplerName = draw.sampler or ("per-label" if config.reader == "jsonl" else "kshot")
    if sampler == "per-label" and config.reader != "jsonl":
        raise DeltatuneError(f"task {config.name}: sampler per-label takes jsonl files, not {config.reader}; take kshot")
    if sampler == "per-label" and draw.dev_times != 1:
        raise DeltatuneError(f"task {config.name}: sampler per-label takes no dev_times, got {draw.dev_times}")
    return sampler


def _chain(config: TaskConfig, draw: Draw, sampler: SamplerName, seed: int) -> tuple[int, ...]:
    if config.name != "glue/cola" or sampler != "kshot" or seed not in draw.chain:
        return (seed,)
    return draw.chain[: draw.chain.index(seed) + 1]


def _kshot(config: TaskConfig, source: Path, draw: Draw, chains: dict[int, tuple[int, ...]]) -> dict[int, dict[str, str]]:
    """Contents of the files of every seed, by name."""
    table = read_source(source / config.file("train"), config)
    _check_enough(table, config, 2 * draw.k)
    tests = copied_tests(source, config)
    samples = {}
    for seed, chain in chains.items():
        order = shuffled_orders(len(table.rows), chain, chained=True)[seed]
        samples[seed] = _contents(config, table, table, kshot(table.labels, order, draw.k, dev_times=draw.dev_times)) | tests
    return samples


def _per_label(config: TaskConfig, source: Path, draw: Draw, seeds: Sequence[int]) -> dict[int, dict[str, str]]:
    train, dev = (read_source(source / config.file(split), config) for split in ("train", "dev"))
    tests = copied_tests(source, config)
    samples = {}
    for seed in seeds:
        sample = sample_by_class([str(x) for x in train.labels], [str(x) for x in dev.labels], draw.k, seed)
        named = {f"{Path(name).stem}_few{draw.k}.jsonl": text for name, text in _contents(config, train, dev, sample).items()}
        samples[seed] = named | tests
    return samples


def _contents(config: TaskConfig, train: SourceTable, dev: SourceTable, sample: Sample) -> dict[str, str]:
    return {config.file("train"): train.text(sample.train), config.file("dev"): dev.text(sample.dev)}


def _holds(folder: Path, files: dict[str, str], overwrite: bool) -> bool:
    """Whether the folder holds these files and nothing else.

    Raises:
        DeltatuneError: it holds something else, which is not to be overwritten.
    """
    if not folder.exists():
        return False
    there = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
    if there == {name: text.encode("utf-8") for name, text in files.items()}:
        return True
    if not overwrite:
        raise DeltatuneError(f"{folder} holds another sample; choose another --out_dir, or --overwrite it")
    return False


def _check_enough(table: SourceTable, config: TaskConfig, needed: int) -> None:
    for label in dict.fromkeys(table.labels):
        count = table.labels.count(label)
        if label is not None and count < needed:
            raise DeltatuneError(
                f"task {config.name}: class {label!r} has {count} rows in {table.path}, "
                f"{needed} are needed for training and development; lower k"
            )


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _split(path: Path) -> str:
    return path.stem.partition("_few")[0]


def _published_rank(path: Path) -> tuple[int, str, tuple[int, ...], int]:
    task, sample = path.parts[-3], path.parts[-2]
    rank = _TASK_ORDER.index(task) if task in _TASK_ORDER else len(_TASK_ORDER)
    numbers = tuple(int(part) for part in sample.split("-") if part.isdigit())
    return rank, task, numbers, _FILE_ORDER.index(_split(path))
