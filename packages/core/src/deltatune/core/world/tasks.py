"""The tasks of the world: a function of the language's seed, the task's name and the split."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Literal

from deltatune.core.data.config import TaskConfig
from deltatune.core.data.task import Example, Task, build_task
from deltatune.core.world.draw import Draw
from deltatune.core.world.kinds import HIGHEST, KIND, LOWEST, Kind, Texts, labels_and_words
from deltatune.core.world.language import Language
from deltatune.core.world.names import PREFIX, kind_and_domain

SplitName = Literal["train", "dev", "test"]

SIZES: dict[SplitName, int] = {"train": 2000, "dev": 500, "test": 1000}
"""Examples of each split."""

_SIXTEENTHS: dict[SplitName, range] = {"train": range(9), "dev": range(9, 12), "test": range(12, 16)}


def task(name: str, seed: int = 0) -> Task:
    """A task of the world with its examples.

    Args:
        name: one of `TASKS`, with or without `world/` before it.
        seed: of the language.

    Raises:
        DeltatuneError: an unknown name.
    """
    return build_task(task_config(name), examples(name, "train", seed), examples(name, "dev", seed), examples(name, "test", seed))


@cache
def task_config(name: str) -> TaskConfig:
    """How a task of the world is asked and scored; see `task`."""
    kind_name, domain_name = kind_and_domain(name)
    kind, language = KIND[kind_name], _language(0)
    words = labels_and_words(kind_name, language, language.domain(domain_name))
    values = bool(kind.jitter)
    short = name.removeprefix(PREFIX)
    return TaskConfig(
        name=PREFIX + short,
        reader="world",
        metric="pearson" if values else "accuracy",
        extra_metrics=("spearman",) if values else ("macro_f1",),
        folders=(short,),
        texts=("sentence1", "sentence2") if kind.pair else ("text",),
        labels=None if values else tuple(words),
        regression=(LOWEST, HIGHEST) if values else None,
        template=kind.template,
        label_words=words,
        text_input=kind.text_input,
        answers={} if values else words,
    )


@cache
def examples(name: str, split: SplitName, seed: int = 0) -> tuple[Example, ...]:
    """The examples of one split of a task; classes come in equal numbers (within one), mixed.

    No example of a split is in another one, not with its two texts exchanged either: a digest of its texts decides which split
    it may be in.
    """
    kind_name, domain_name = kind_and_domain(name)
    kind, language = KIND[kind_name], _language(seed)
    domain = language.domain(domain_name)
    short = name.removeprefix(PREFIX)
    labels = list(labels_and_words(kind_name, language, domain))
    classes = 6 if kind.jitter else len(labels)
    draw = Draw("world", seed, short, split)
    seen: set[Texts] = set()
    found: list[Example] = []
    for number in draw.distinct([place % classes for place in range(SIZES[split])], SIZES[split]):
        texts = kind.make(language, domain, number, draw)
        while (key := tuple(sorted(texts))) in seen or _sixteenth(seed, key) not in _SIXTEENTHS[split]:
            texts = kind.make(language, domain, number, draw)
        seen.add(key)
        label = labels[number] if not kind.jitter else _value(kind, number, draw)
        found.append(Example(texts, label, (), f"{split}-{len(found)}"))
    return tuple(found)


def _value(kind: Kind, shared: int, draw: Draw) -> float:
    return min(max(shared + draw.pick(kind.jitter), LOWEST), HIGHEST)


def _sixteenth(seed: int, texts: Texts) -> int:
    return hashlib.sha256("\0".join((str(seed), *texts)).encode("utf-8")).digest()[0] % 16


@cache
def _language(seed: int) -> Language:
    return Language(seed)
