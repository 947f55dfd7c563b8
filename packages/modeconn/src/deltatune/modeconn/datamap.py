"""Data cartography (Swayamdipta et al. 2020): how hard each training example is, from its course over a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum, sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json

FILE = "cartography.json"
NEVER = 1000
"""Forgetfulness of an example that was never right."""
START = "start"


@dataclass(frozen=True)
class Course:
    """One training example over the epochs of a run.

    Args:
        acc: whether it was right (1.0 or 0.0).
        confidence: probability of its gold label.
    """

    acc: tuple[float, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True)
class Hardness:
    """How hard an example is.

    Args:
        confidence: mean probability of the gold label over epochs.
        variability: its population standard deviation.
        correctness: share of the epochs in which it was right; times their number it is the count of the data maps.
        turns: epochs after which right and wrong changed places.
        forgetfulness: learnt-to-wrong transitions; `NEVER` if it was never right.
    """

    confidence: float
    variability: float
    correctness: float
    turns: int
    forgetfulness: int

    @property
    def threshold_closeness(self) -> float:
        """The product confidence (1 - confidence)."""
        return self.confidence * (1 - self.confidence)


def hardness(course: Course, epochs: int | None = None, corrected: bool = False) -> Hardness:
    """The statistics of one example.

    Args:
        course: its epochs.
        epochs: only the first so many ("burn out").
        corrected: variability sqrt(var + var^2 / (E - 1)), which widens it for few epochs.
    """
    confidence, acc = course.confidence[:epochs], course.acc[:epochs]
    mean = fmean(confidence)
    variance = fsum((p - mean) ** 2 for p in confidence) / len(confidence)
    if corrected:
        variance += variance**2 / (len(confidence) - 1)
    turns = sum(a != b for a, b in pairwise(acc))
    return Hardness(mean, sqrt(variance), fmean(acc), turns, forgetfulness(acc))


def forgetfulness(acc: Sequence[float]) -> int:
    """How often an example that was right became wrong; `NEVER` if it was never right."""
    return sum(a > b for a, b in pairwise(acc)) if any(acc) else NEVER


def read_map(path: Path) -> dict[str, Course]:
    """The `cartography.json` in `path`, a run or the file itself: row number of the training file -> course.

    Raises:
        DeltatuneError: missing, of another form, or with rows of unequal numbers of epochs.
    """
    file = path / FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise DeltatuneError(f"{path}: no {FILE}; record one with `deltatune-modeconn cartography record --run {path}`")
    found = read_json(file)
    try:
        courses = {str(name): Course(tuple(item["acc"]), tuple(item["confidence"])) for name, item in found.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise DeltatuneError(f"{file}: not a data map; it must have `acc` and `confidence` for each example") from error
    lengths = {len(values) for course in courses.values() for values in (course.acc, course.confidence)}
    if len(lengths) != 1 or 0 in lengths:
        raise DeltatuneError(f"{file}: its examples have {sorted(lengths)} epochs; all must have the same number, at least one")
    return courses


@dataclass(frozen=True)
class Group:
    """A set of examples of one step of a path, with the means of their statistics; None for an empty set."""

    name: str
    start: str
    end: str
    count: int
    correctness: float | None
    confidence: float | None
    variability: float | None
    turns: float | None


def combine(courses: Mapping[str, Course], lists: Mapping[str, Mapping[str, Sequence[int]]]) -> list[Group]:
    """Which examples are newly forgotten, newly remembered and stay right at each step, and how hard they are.

    Args:
        courses: of the training run.
        lists: place -> `zero_list`, `one_list`, in the order of the path; rows are those of the same training file.

    Returns:
        For each step the groups `forgotten`, `remembered`, `stays right`. The first step leads from "start", where nothing is
        wrong, to the first point: its forgotten are the errors of the left end, which no claim counts.

    Raises:
        DeltatuneError: the path has an example that the map lacks.
    """
    hard = {int(name): hardness(course) for name, course in courses.items()}
    rows = {row for item in lists.values() for row in (*item["zero_list"], *item["one_list"])}
    if strange := sorted(rows - set(hard)):
        raise DeltatuneError(
            f"the path has example {strange[0]}, which is none of the {len(hard)} of the data map; both must be of one train file"
        )
    found, before, wrong, right = [], START, set[int](), set[int]()
    for place, item in lists.items():
        now, well = set(item["zero_list"]), set(item["one_list"])
        for name, members in (("forgotten", now - wrong), ("remembered", wrong - now), ("stays right", right & well)):
            found.append(_group(name, (before, place), [hard[row] for row in sorted(members)]))
        before, wrong, right = place, now, well
    return found


def _group(name: str, step: tuple[str, str], members: Sequence[Hardness]) -> Group:
    means: dict[str, Any] = {
        key: fmean(getattr(item, key) for item in members) if members else None
        for key in ("correctness", "confidence", "variability", "turns")
    }
    return Group(name, *step, len(members), **means)


def text(groups: Sequence[Group]) -> str:
    """The report: for each step six lines as published (undefined instead of 0 for an empty set), then the other two groups."""
    lines = []
    for group in groups:
        if group.name == "forgotten":
            lines.append(f"this is from interpolation point {group.start} ===> {group.end}")
            lines.append(f"total number of newly forgotten examples: {group.count}")
            shown = ("correctness", "confidence", "variability", "turns")
            lines += [f"average {key} is: {_number(getattr(group, key))}" for key in shown] + [""]
    for name in ("remembered", "stays right"):
        for group in groups:
            if group.name == name and group.start != START:
                known = ", ".join(f"{key} {_number(getattr(group, key))}" for key in ("correctness", "confidence", "variability"))
                lines.append(f"{name}, {group.start} ===> {group.end}: {group.count} examples, {known}")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "undefined" if value is None else str(value)


def record(course: Mapping[str, Course]) -> dict[str, Any]:
    """The content of `cartography.json`."""
    return {name: {"acc": list(item.acc), "confidence": list(item.confidence)} for name, item in course.items()}
