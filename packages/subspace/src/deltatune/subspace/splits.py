"""Lists of tasks: which are sources, which are unseen, and what is wrong with a list."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from deltatune.core.data import Example, Task, short_name
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json

PUBLISHED = "train_60_unseen_rest"
# One data set under two names; the published split has the one among its sources and the other among the unseen tasks.
_TWINS = (("glue-rte", "superglue-rte"),)


@dataclass(frozen=True)
class Split:
    """Source tasks and unseen tasks.

    Args:
        sources: in sorted order, as the subspace is trained on them (published: `train`).
        unseen: the others (published: `unseen`).
        notes: what a reader should know: repeated names, data in both parts, names that the list of all tasks lacks.
    """

    sources: tuple[str, ...]
    unseen: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_split(split: str | Path, family: str = "") -> Split:
    """The split in a JSON file with the lists `train`, `unseen` and perhaps `all`; or the published one by name.

    Args:
        split: a file, or `train_60_unseen_rest`.
        family: what stands before every name, such as `gym/`.

    Raises:
        DeltatuneError: not such a file, no source task, or a task that is a source and unseen.
    """
    if str(split) == PUBLISHED:
        found: Any = read_json(Path(str(files("deltatune.subspace") / "splits" / f"{PUBLISHED}.json")))
    else:
        found = read_json(Path(split))
    lists = found if isinstance(found, dict) else {}
    for key in ("train", "unseen"):
        names = lists.get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DeltatuneError(f"{split}: a split is an object whose `{key}` is a list of names of tasks")
    if not lists["train"]:
        raise DeltatuneError(f"{split}: `train` is empty; name at least one source task")
    sources, unseen = sorted(set(lists["train"])), sorted(set(lists["unseen"]))
    if both := sorted(set(sources) & set(unseen)):
        raise DeltatuneError(f"{split}: {both[0]} is in `train` and in `unseen` ({len(both)} such in all); leave it out of one")
    notes = tuple(_notes(lists, sources, unseen))
    return Split(tuple(family + name for name in sources), tuple(family + name for name in unseen), notes)


def _notes(lists: dict[str, Any], sources: Sequence[str], unseen: Sequence[str]) -> Iterable[str]:
    for key in ("train", "unseen"):
        if repeated := sorted({name for name in lists[key] if lists[key].count(name) > 1}):
            yield f"`{key}` names {repeated[0]} more than once ({len(repeated)} such in all)"
    for twins in _TWINS:
        for one, other in (twins, twins[::-1]):
            if one in unseen and other in sources:
                yield f"unseen task {one} holds the data of source task {other}: scores on it are not those of an unseen task"
    missing = [name for name in (*sources, *unseen) if name not in lists.get("all", (*sources, *unseen))]
    if missing:
        yield f"`all` lacks {', '.join(missing[:3])} ({len(missing)} in all)"


def shared_examples(source: Task, unseen: Task) -> int:
    """How many test examples of `unseen` have the texts of a training example of `source`.

    Letters and digits are compared, without case and without a field's name in front (`sentence: `), as in text-to-text files.
    """

    def letters(example: Example) -> str:
        return "".join(re.sub(r"^\s*\w+:\s|[\W_]", "", text.lower()) for text in example.texts)

    seen = {letters(example) for example in source.train}
    return sum(letters(example) in seen for example in unseen.test)


def leaks(sources: Sequence[str], unseen: Sequence[str], load: Callable[[str], Task]) -> Iterator[str]:
    """What makes a task of `unseen` less than unseen, in sentences: it is a source, or has test texts that a source trains on.

    Args:
        sources: the source tasks of a subspace.
        unseen: the others.
        load: a task with its examples, by name; of a source that cannot be loaded it is said that nothing was compared.
    """
    for task in sorted(set(unseen) & set(sources)):
        yield f"{task} is a source task of this subspace: scores on it are not those of an unseen task"
    tested = {task: load(task) for task in unseen if task not in sources}
    for name in sources if tested else ():
        try:
            source = load(name)
        except DeltatuneError as error:
            yield f"source task {name} was not compared with the unseen ones: {error}"
            continue
        for task, found in tested.items():
            if count := shared_examples(source, found):
                said = f"{count} of {len(found.test)} test examples of {task}"
                yield f"{said} have the texts of training examples of source task {name}"


def folder_of(task: str) -> str:
    """The folder of a task below a root: its name with hyphens for slashes; of a YAML task file the name of the file."""
    return short_name(task).replace("/", "-")


def require_distinct(tasks: Sequence[str]) -> None:
    """Require tasks whose folders differ.

    Raises:
        DeltatuneError: a task twice, or two with one folder.
    """
    folders: dict[str, str] = {}
    for task in tasks:
        if (other := folders.get(folder_of(task))) is not None:
            raise DeltatuneError(f"tasks {other} and {task} have one folder, {folder_of(task)}; name each once")
        folders[folder_of(task)] = task
    if not tasks:
        raise DeltatuneError("no task given; give --tasks '[world/sentiment-0]', or --split")
