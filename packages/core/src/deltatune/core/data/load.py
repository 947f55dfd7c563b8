"""From a task's name, and a folder of files, to its examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from deltatune.core.data.config import TaskConfig, read_task_file
from deltatune.core.data.names import builtin_task
from deltatune.core.data.readers import Record, Split, object_record, read_split, split_of
from deltatune.core.data.task import Task, build_task
from deltatune.core.errors import DeltatuneError

SplitName = Literal["train", "dev", "test"]
_Read = Callable[[SplitName, int | None], Split | None]


def load_task(
    task: str | Path | TaskConfig,
    data_dir: Path | None = None,
    *,
    prefix: str | None = None,
    half: Literal["first", "second"] | None = None,
    max_train: int | None = None,
    max_dev: int | None = None,
    max_test: int | None = None,
    change: Mapping[str, Any] | None = None,
) -> Task:
    """A task with its examples.

    Args:
        task: a built-in name (see `task_names`), the path of a YAML task file, or a configuration.
        data_dir: the folder that holds the files, or one that holds the task's folder; by default the folder of the task file.
            Tasks of the generated world (`world/...`) read no files.
        prefix: of a text-to-text task with several samples in one folder, which one.
        half: train on the first or the second half of the training file (of n rows the first n // 2, or the others).
        max_train: most training examples, the first of the file (of the half).
        max_dev: the same for development.
        max_test: the same for test.
        change: fields of the task's configuration that take other values, such as `template`.

    Raises:
        DeltatuneError: an unknown task, a missing folder or file, or anything `read_split` finds wrong.
    """
    config, base = _config(task, data_dir)
    config = replace(config, **change) if change else config
    for name, count in (("max_train", max_train), ("max_dev", max_dev), ("max_test", max_test)):
        if count is not None and count < 1:
            raise DeltatuneError(f"{name} must be at least 1, got {count}")
    read, notes = _source(config, base, prefix or config.prefix)
    whole = _needed(read("train", None if half else max_train), config, "train")
    train = whole.examples
    if half is not None:
        middle = len(train) // 2
        train = (train[:middle] if half == "first" else train[middle:])[:max_train]
    dev = _needed(read("dev", max_dev), config, "dev")
    test = read("test", max_test)
    notes += [*whole.notes, *dev.notes, *(test.notes if test else ())]
    if test is None or not test.labelled:
        missing = "no test file" if test is None else "the test file has no labels"
        notes.append(
            f"{missing}: the development examples serve as test" if config.dev_is_test else f"{missing}: no test examples"
        )
        test = read("dev", max_test) if config.dev_is_test else None
    return build_task(config, train, dev.examples, test.examples if test else (), notes)


def find_folder(config: TaskConfig, data_dir: Path | None, prefix: str | None = None) -> Path:
    """The folder with the files of a task: `data_dir` itself, or the task's folder in it.

    Raises:
        DeltatuneError: neither holds the training file.
    """
    if data_dir is None:
        raise DeltatuneError(f"task {config.name} reads files; give their folder as data_dir (--data_dir)")
    if data_dir.is_file():
        raise DeltatuneError(f"--data_dir {data_dir} is a file; give the folder that holds it")
    if not data_dir.is_dir():
        raise DeltatuneError(f"no such folder: {data_dir}; give that of the files of task {config.name} as --data_dir")
    pattern = (prefix or "*") + config.file("train") if config.is_text else config.file("train")
    candidates = [data_dir, *(data_dir / name for name in config.folders)]
    for folder in candidates:
        if any(folder.glob(pattern)) or split_file(config, folder, "train").exists():
            return folder
    raise DeltatuneError(
        f"task {config.name}: no {pattern} in {', '.join(map(str, candidates))}; give the folder that holds it as --data_dir"
    )


def split_file(config: TaskConfig, folder: Path, split: SplitName) -> Path:
    """The file of a split; of JSON lines, `train_few<k>.jsonl` where it stands alone, as in published samples."""
    path = folder / config.file(split)
    samples = sorted(folder.glob(f"{path.stem}_few*.jsonl")) if config.reader == "jsonl" and not path.exists() else []
    return samples[0] if len(samples) == 1 else path


def prefixes(config: TaskConfig, folder: Path) -> list[str]:
    """What stands before `_train.tsv` in the names of a folder's files, sorted: the samples of a text-to-text task."""
    end = config.file("train")
    return sorted(path.name.removesuffix(end) for path in folder.glob(f"*{end}"))


def _config(task: str | Path | TaskConfig, data_dir: Path | None) -> tuple[TaskConfig, Path | None]:
    if isinstance(task, TaskConfig):
        return task, data_dir
    path = Path(task)
    if isinstance(task, Path) or path.suffix in (".yaml", ".yml"):
        return read_task_file(path), data_dir or path.parent
    return builtin_task(task), data_dir


def _source(config: TaskConfig, base: Path | None, prefix: str | None) -> tuple[_Read, list[str]]:
    """What reads a split (None if there is no such split), and notes on the choice of files."""
    if config.reader == "hub":
        return _hub(config, base), []
    if config.reader == "world":
        return _world(config), []
    folder = find_folder(config, base, prefix)
    start, notes = "", []
    if config.is_text:
        found = prefixes(config, folder)
        start = prefix or found[0]
        notes = [f"sample {start} of {len(found)}: {', '.join(found)}"] if len(found) > 1 else []

    def read(split: SplitName, limit: int | None) -> Split | None:
        path = folder / (start + config.file(split)) if config.is_text else split_file(config, folder, split)
        if not path.exists():
            if split == "test":
                return None
            raise DeltatuneError(
                f"task {config.name}: no {path.name} in {folder}; name another file with `{split}` in a YAML task file"
            )
        return read_split(path, config, limit=limit, labels_required=split != "test")

    return read, notes


def _world(config: TaskConfig) -> _Read:
    from deltatune.core.world.tasks import examples  # made of this package's types

    return lambda split, limit: Split(examples(config.name, split)[:limit], (), True)


def _hub(config: TaskConfig, base: Path | None) -> _Read:
    # Seconds to import, and only this reader needs it.
    import datasets

    name = str(config.hub)
    folder = (base or Path()) / name
    try:
        if folder.is_dir():
            found: Any = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(name, config.hub_config, revision=config.revision)
    except Exception as error:  # the library raises whatever its many back ends raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeltatuneError(
            f"task {config.name}: cannot load data set {name!r} ({reason}); name a folder or a data set of the hub"
        ) from error

    def read(split: SplitName, limit: int | None) -> Split | None:
        key = config.file(split)
        if key not in found:
            if split == "test":
                return None
            raise DeltatuneError(f"task {config.name}: data set {name!r} has no split {key!r}; its splits: {', '.join(found)}")
        rows = found[key]
        records = (
            _named(object_record(row, config, f"{name} {key} row {number}", f"{key}-{number}"), rows.features.get(config.label))
            for number, row in enumerate(rows)
        )
        return split_of(records, config, f"{name} {key}", limit=limit, labels_required=split != "test", notes=[])

    return read


def _named(record: Record, feature: Any) -> Record:
    """The record with the name of its class instead of the number, where the data set has names."""
    if hasattr(feature, "int2str") and isinstance(record.label, int) and record.label >= 0:
        return record._replace(label=feature.int2str(record.label))
    return record


def _needed(split: Split | None, config: TaskConfig, name: str) -> Split:
    if split is None:
        raise DeltatuneError(f"task {config.name}: no {name} examples")
    return split
