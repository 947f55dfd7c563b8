"""Measuring a path: scores of every example at every point, kept as they come, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, sqrt
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from deltatune.core.data import Example
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores, evaluate, evaluate_many
from deltatune.core.files import write_json, write_text
from deltatune.core.formats import Feature, TextFormat
from deltatune.core.metrics import higher_is_better
from deltatune.core.paths import End, line, walk
from deltatune.core.progress import ProgressBar
from deltatune.core.run import append_records, read_records
from deltatune.core.weights import weighted_sum
from deltatune.modeconn import bookkeeping
from deltatune.modeconn.bookkeeping import FILES, Point, fates, transitions
from deltatune.modeconn.gains import gain
from deltatune.modeconn.profiles import TOLERANCE, curve_segments, profile
from deltatune.modeconn.scenes import Scene

Split = Literal["eval", "dev", "test", "train"]
Coefficients = Callable[[float], Sequence[float]]
MOST_TOKENS = 512  # in one forward pass of several points


@dataclass(frozen=True)
class Row:
    """One split at one place.

    Args:
        x: the place.
        split: of the task.
        value: of the metric; None where it is undefined.
        loss: mean over examples; None where it is undefined.
        stderr: of the value over examples, where it is a mean.
        n: examples.
        per_example: score of each; None for metrics of the whole set.
    """

    x: float
    split: str
    value: float | None
    loss: float | None
    stderr: float | None
    n: int
    per_example: list[float] | None


@dataclass(frozen=True)
class Limits:
    """Which examples are evaluated.

    Args:
        split: dev and test (`eval`), or one of them, or the training examples.
        max_dev: the first N of dev.
        max_test: the first N of test.
        max_train: the first N of train.
    """

    split: Split = "eval"
    max_dev: int | None = None
    max_test: int | None = None
    max_train: int | None = None

    def parts(self, scene: Scene) -> dict[str, Sequence[Example]]:
        """The examples by split; those without any left out.

        Raises:
            DeltatuneError: there are none at all.
        """
        task = scene.task
        every = {"dev": task.dev[: self.max_dev], "test": task.test[: self.max_test], "train": task.train[: self.max_train]}
        wanted = ("dev", "test") if self.split == "eval" else (self.split,)
        found: dict[str, Sequence[Example]] = {name: every[name] for name in wanted if every[name]}
        if not found:
            raise DeltatuneError(f"task {task.name} has no {' or '.join(wanted)} examples to score a path on")
        return found


def measure(
    scene: Scene,
    places: Sequence[float],
    limits: Limits,
    state: Path,
    ends: Sequence[End] | None = None,
    coefficients: Coefficients = line,
    name: str = "",
) -> list[Row]:
    """Every split at every place, in order; what an interrupted call has measured is found in `state` and not measured again.

    The scene's model is left anywhere on the path.

    Args:
        scene: model, task and ends.
        places: parameters of the path.
        limits: which examples.
        state: folder for what is measured; its caller removes it.
        ends: of the path, those of the scene by default.
        coefficients: weight of each end at a place.
        name: of the path, where several share `state`.
    """
    parts, file = limits.parts(scene), state / "points.jsonl"
    key = f"{scene.choice.task}/{name}"
    known = {item["x"]: item["rows"] for item in (read_records(file) if file.exists() else []) if item["path"] == key}
    rest = [place for place in places if place not in known]
    if rest:
        with ProgressBar(f"path {name}".strip(), len(places), len(places) - len(rest), True) as bar:
            for point in _points(scene, parts, ends or scene.ends, rest, coefficients):
                append_records(file, [{"path": key, **point}])
                known[point["x"]] = point["rows"]
                bar.advance(len(known), f"x {point['x']:g}", line=False)
    fields = ("split", "value", "loss", "stderr", "n", "per_example")
    return [Row(place, *(item[field] for field in fields)) for place in places for item in known[place]]


def _points(
    scene: Scene, parts: Mapping[str, Sequence[Example]], ends: Sequence[End], rest: Sequence[float], coefficients: Coefficients
) -> Iterator[dict[str, Any]]:
    """What `measure` keeps of each place: many places in one forward pass where that is faster."""
    encoded = {split: scene.form.features(examples) for split, examples in parts.items()}

    def look() -> dict[str, Any]:
        return _rows({split: evaluate(scene.tuned, scene.form, parts[split], found) for split, found in encoded.items()})

    size = at_once(scene, ends, encoded)
    if size == 1:
        yield from walk(scene.tuned, ends, rest, look, coefficients, restore=False)
        return
    for first in range(0, len(rest), size):
        places = rest[first : first + size]
        deltas = [_at(ends, coefficients(place)) for place in places]
        every = {split: evaluate_many(scene.tuned, scene.form, parts[split], deltas, found) for split, found in encoded.items()}
        for number, place in enumerate(places):
            yield {"x": place, **_rows({split: found[number] for split, found in every.items()})}


def _rows(found: Mapping[str, Scores]) -> dict[str, Any]:
    return {"rows": [{"split": split, **s.numbers(), "per_example": s.per_example} for split, s in found.items()]}


def _at(ends: Sequence[End], weights: Sequence[float]) -> dict[str, Tensor]:
    return {name: weighted_sum([end.deltas[name] for end in ends], weights) for name in ends[0].deltas}


def at_once(scene: Scene, ends: Sequence[End], encoded: Mapping[str, Sequence[Feature]]) -> int:
    """How many points go into one forward pass: several of a delta path with few short examples, else one.

    Together they have at most `MOST_TOKENS` padded tokens, and one point at most an eighth of that: where a pass of one point is
    longer, it does not wait for its calls (`benchmarks/modeconn_speed.py` compares both ways).
    """
    moving = any(delta.relative for delta in scene.tuned.kinds())  # Full: a point holds the base's parameters, not its own
    if moving or isinstance(scene.form, TextFormat) or any(end.base is not None for end in ends):
        return 1
    tokens = max(len(found) * max(len(feature["input_ids"]) for feature in found) for found in encoded.values())
    return MOST_TOKENS // tokens if 8 * tokens <= MOST_TOKENS else 1


def splits_of(rows: Sequence[Row]) -> list[str]:
    """The splits in `rows`, in order."""
    return list(dict.fromkeys(row.split for row in rows))


def of_split(rows: Sequence[Row], split: str) -> list[Row]:
    """The rows of one split."""
    return [row for row in rows if row.split == split]


def points_of(rows: Sequence[Row]) -> list[Point]:
    """As the published table has them; rows of the training examples are not in it."""
    found: dict[float, dict[str, float | None]] = {row.x: {} for row in rows}
    for row in rows:
        if row.split != "train":
            found[row.x] |= {f"{row.split}_performance": row.value, f"{row.split}_loss": row.loss}
    return [Point(x, **values) for x, values in found.items()]


def gram(ends: Sequence[End]) -> list[list[float]]:
    """Inner products of the ends, from the first as origin, in float64; bases count where they move."""
    vectors = [{**(end.base or {}), **end.deltas} for end in ends]
    size = len(ends)
    found = [[0.0] * size for _ in range(size)]
    for name, origin in vectors[0].items():
        steps = [vector[name].double() - origin.double() for vector in vectors]
        for i in range(size):
            for j in range(i, size):
                found[i][j] += float((steps[i] * steps[j]).sum())
    return [[found[min(i, j)][max(i, j)] for j in range(size)] for i in range(size)]


def statistics(rows: Sequence[Row], metric: str, ends: Sequence[End], coefficients: Coefficients = line) -> dict[str, Any]:
    """Profiles of loss and score of each split, whether the ends are connected, and the distance between them."""
    products = gram(ends)
    found: dict[str, Any] = {"distance": sqrt(products[-1][-1])}
    for split in splits_of(rows):
        own = of_split(rows, split)
        places = [row.x for row in own]
        segments = curve_segments([coefficients(x) for x in places], products)
        for what, values in (("loss", [row.loss for row in own]), ("score", [row.value for row in own])):
            numbers = [value for value in values if value is not None and not isnan(value)]
            if len(numbers) == len(places) > 1:
                found.setdefault(split, {})[what] = profile(places, numbers, segments).numbers()
        if "score" in found.get(split, {}):
            worse = "drop" if higher_is_better(metric) else "barrier"
            found[split]["connected"] = found[split]["score"][worse] <= TOLERANCE
    return found


def best_of(rows: Sequence[Row], metric: str) -> dict[str, Any] | None:
    """The point that is best on dev, and what it gains on test over the end that is better on dev; None without dev scores."""
    sign = 1 if higher_is_better(metric) else -1
    dev = [row for row in of_split(rows, "dev") if row.value is not None]
    if len(dev) < 2:
        return None
    chosen = max(dev, key=lambda row: sign * (row.value or 0.0))
    end = max((dev[0], dev[-1]), key=lambda row: sign * (row.value or 0.0))
    found: dict[str, Any] = {"x": chosen.x, "dev": chosen.value, "better_end": end.x, "dev_of_better_end": end.value}
    test = {row.x: row for row in of_split(rows, "test")}
    if test:
        one, other = test[chosen.x], test[end.x]
        found |= {"test": one.value, "test_of_better_end": other.value}
        if one.per_example is not None and other.per_example is not None:
            found["gain"] = gain(one.per_example, other.per_example).numbers()
    return found


def write(rows: Sequence[Row], folder: Path, prefix: str, metric: str) -> dict[str, Any]:
    """Write the published files; returns the sizes of what becomes of the examples, by split."""
    points = points_of(rows)
    if any(row.split != "train" for row in rows):
        write_text(folder / "result.csv", bookkeeping.table(points, prefix, metric))
    found: dict[str, Any] = {"solution": bookkeeping.solution(points)} if points else {}
    for split in splits_of(rows):
        own = of_split(rows, split)
        scores = [row.per_example for row in own if row.per_example is not None]
        if len(scores) < len(own):
            continue  # a metric of the whole set has no examples that are right
        lists = transitions(scores, changes=split != "train")
        write_json(folder / FILES[split], {bookkeeping.key(row.x): item for row, item in zip(own, lists, strict=True)})
        fate = fates(lists)
        found.setdefault("examples", {})[split] = {
            "newly_forgotten": [len(rows) for rows in fate.forgotten],
            "newly_remembered": [len(rows) for rows in fate.remembered],
            "always_right": len(fate.always_right),
            "never_right": len(fate.never_right),
            "counts": bookkeeping.counts(scores) if split != "train" else None,
        }
    return found


def records(rows: Sequence[Row], common: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """One record for each split and place, without the lists."""
    return [
        {**common, "kind": "path", "x": row.x, "split": row.split, "metric": metric, "value": row.value, "loss": row.loss}
        | {"stderr": row.stderr, "n": row.n}
        for row in rows
    ]
