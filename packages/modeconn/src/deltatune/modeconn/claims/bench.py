"""What the claims share: tuned ends on the built-in world, lines between them, and what is read off."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deltatune.core.claims import CannotRunError, Context, Effects, Gate

if TYPE_CHECKING:
    from deltatune.core.claims.context import SharedRun
    from deltatune.core.tune_config import TuneConfig

BASE, TEXT = "world/m0", "world/t5"
# From step 400 fine-tuning of these lengths is not good (63% on sentiment with seed 100), from 800 it is.
SNAPSHOTS = {"world/m0@800": 800, "world/m0@1200": 1200, BASE: 3000}
# On aspect a barrier shows: it needs more than words. On sentiment no end is at 100%, so that something can be lost and gained.
TASK, OTHER_DOMAIN, WORDS = "world/aspect-0", "world/aspect-1", "world/sentiment-0"
CHANCE = 50.0  # both have two answers
POINTS, CURVE_POINTS = 11, 26
SEEN = 500  # training examples on a path
CURVE_UPDATES, MIX_UPDATES = 300, 200
# Lengths on world/m0, of curves too, were chosen with seed 100 alone. The rates are those of docs/world.md, chosen by test scores
# with seed 0; so are the lengths on world/t5. No seed from 1 to 10 was looked at.
LENGTHS = {"aspect": (200, 32), "sentiment": (100, 16)}
TEXT_LENGTH = (200, 32)
SCORED = {"aspect": 200, "sentiment": 300}  # dev and test examples at a point
RATES = {BASE: {"Houlsby": 1e-2, "Full": 5e-4}, TEXT: {"Houlsby": 1e-2, "Full": 1e-3}}
Kind = Literal["Houlsby", "Full"]
SETTINGS: dict[str, Any] = {
    "tasks": [TASK, WORDS],
    "updates and batch": LENGTHS,
    "points": POINTS,
    "scored": SCORED,
    "rates": RATES[BASE],
    "curve": CURVE_UPDATES,
    "mix": MIX_UPDATES,
}
TEXT_SETTINGS = {**SETTINGS, "base": TEXT, "updates and batch": TEXT_LENGTH, "rates": RATES[TEXT]}


def kind_of(task: str) -> str:
    """Of a task of the world, such as aspect."""
    return task.removeprefix("world/").rpartition("-")[0]


def length(task: str = TASK, base: str = BASE) -> tuple[int, int]:
    """Updates, and examples in each."""
    return TEXT_LENGTH if base.startswith(TEXT) else LENGTHS[kind_of(task)]


def need_models(*bases: str) -> None:
    """Say "not run" where the package comes without its pre-trained models.

    Raises:
        CannotRunError: one of `bases` is not there.
    """
    from deltatune.core.errors import DeltatuneError
    from deltatune.core.loading import resolve

    with as_file(files("deltatune.core.world")) as folder:
        if not any(folder.rglob("*.safetensors")):
            raise CannotRunError("this version of deltatune ships no pre-trained models of the built-in world")
    for base in bases or (BASE,):
        try:
            resolve(base)
        except DeltatuneError as error:
            raise CannotRunError(f"{base} is not among the models of the built-in world: {error}") from error


def config(kind: Kind, init_seed: int, data_seed: int, base: str = BASE, task: str = TASK, **changes: Any) -> TuneConfig:
    """One run, asked by prompt or as text: no head, so that tasks differ in nothing but what is asked.

    Args:
        kind: adapters of width 8, or fine-tuning, which then has no new parameters and so no initial values to differ in.
        init_seed: of the adapters' initial values.
        data_seed: of the order of examples and of dropout.
        base: the pre-trained model.
        task: what is tuned.
        changes: `lr` and `batch` as factors, `half`, `steps`, `snapshots`, `std` of the initial values,
            `train`: the first N examples.
    """
    from deltatune.core.backbone import BackboneConfig
    from deltatune.core.delta import Full, Houlsby
    from deltatune.core.optim import OptimizerConfig
    from deltatune.core.train_config import TrainConfig
    from deltatune.core.tune_config import TaskChoice, TuneConfig

    text = base.startswith(TEXT)
    delta = Houlsby(width=8, bias=False, init_std=changes.get("std", 0.02)) if kind == "Houlsby" else Full()
    rate = RATES[TEXT if text else BASE][kind] * changes.get("lr", 1.0)
    updates, batch = length(task, base)
    steps = changes.get("steps", updates)
    train = TrainConfig(
        OptimizerConfig(lr=rate, schedule="linear"),
        steps=steps,
        batch_size=int(batch * changes.get("batch", 1)),
        select="last",
        eval_every=steps,
        snapshots=changes.get("snapshots", (steps // 4, steps // 2, steps)),
        data_seed=data_seed,
        dropout_seed=data_seed,
    )
    scored = SCORED[kind_of(task)]
    choice = TaskChoice(task, max_dev=scored, max_test=scored, half=changes.get("half"), max_train=changes.get("train"))
    init = init_seed if kind == "Houlsby" else 0
    return TuneConfig(BackboneConfig(base, form="text" if text else "prompt"), choice, (delta,), train, init_seed=init)


def end(context: Context, *args: Any, **changes: Any) -> SharedRun:
    """The run of `config(...)`, tuned once for all claims."""
    return context.tuned(config(*args, **changes))


Line = dict[str, Any]


def line(
    context: Context, left: Path, right: Path, tasks: Sequence[str] = (TASK,), align: bool = False,
    split: str = "eval", points: int | None = None,
) -> dict[str, Line]:  # fmt: skip
    """The straight line between two runs, by task: for each split `loss` and `value` at each place, and the distance.

    Of the training examples also `zero_list` and `one_list` at each point. Kept under the digests of the ends.
    """
    from deltatune.core.reuse import open_run
    from deltatune.modeconn.endpoints import identity

    ends = [identity(open_run(path))["digest"] for path in (left, right)]
    key = {"line": ends, "tasks": list(tasks), "align": align, "split": split, "points": points or POINTS}
    found: dict[str, Line] = context.store.get(key, partial(_line, (left, right), tasks, align, split, points or POINTS))
    return found


def _line(paths: tuple[Path, Path], tasks: Sequence[str], align: bool, split: Any, points: int) -> dict[str, Line]:
    from deltatune.core.reuse import open_run
    from deltatune.modeconn.bookkeeping import places, transitions
    from deltatune.modeconn.endpoints import transformed
    from deltatune.modeconn.scenes import Where, is_whole, scene, tasks_of
    from deltatune.modeconn.sweeps import Limits, gram, measure, of_split, splits_of

    runs = transformed([open_run(path) for path in paths], align, False)
    found: dict[str, Line] = {}
    for choice, own in tasks_of(runs, tasks, None):
        stage = scene(runs, choice, own, Where((None, None), "cpu", is_whole(runs, "auto")))
        with tempfile.TemporaryDirectory() as state:
            rows = measure(stage, places(points), Limits(split, max_train=SEEN), Path(state))
        by_split: Line = {"x": places(points), "distance": gram(stage.ends)[-1][-1] ** 0.5}
        for name in splits_of(rows):
            own_rows = of_split(rows, name)
            by_split[name] = {"loss": [r.loss for r in own_rows], "value": [r.value for r in own_rows]}
            if name == "train":
                by_split[name]["lists"] = transitions([r.per_example or [] for r in own_rows], changes=False)
        found[choice.task] = by_split
        stage.tuned.detach()
    return found


def barrier(found: Mapping[str, Any], split: str = "dev") -> float:
    """The loss barrier above the chord."""
    from deltatune.modeconn.profiles import profile

    return profile(found["x"], found[split]["loss"]).barrier


def drop(found: Mapping[str, Any], split: str = "dev") -> float:
    """The drop of the score below the chord, in points."""
    from deltatune.modeconn.profiles import profile

    return 100 * profile(found["x"], found[split]["value"]).drop


def seeds_line(context: Context, kind: Kind, seed: int, what: Literal["init", "order", "both"], **more: Any) -> Line:
    """The line between two runs that differ in their initial values, in their order of data, or in both.

    Args:
        context: of the claims.
        kind: of the ends.
        seed: of the first; 1000 more where the other differs.
        what: differs.
        more: `align`, and `split` and `points` of the line; the rest as `config` takes it.
    """
    how = {name: more.pop(name) for name in ("align", "split", "points") if name in more}
    other = {"init": (seed + 1000, seed), "order": (seed, seed + 1000), "both": (seed + 1000, seed + 1000)}[what]
    left, right = end(context, kind, seed, seed, **more), end(context, kind, *other, **more)
    task = more.get("task", TASK)
    return line(context, left.path, right.path, (task,), **how)[task]


def ends_of(*lines: Line, split: str = "dev") -> dict[str, float]:
    """What decides whether the pairs are good: the worst end above chance, and the widest gap between two ends, in points."""
    scores = [(100 * found[split]["value"][0], 100 * found[split]["value"][-1]) for found in lines]
    return {"above_chance": min(map(min, scores)) - CHANCE, "apart": max(abs(a - b) for a, b in scores)}


ABOVE = Gate("above_chance", "every end scores at least 20 points above chance on dev", at_least=20.0)
GOOD = (ABOVE, Gate("apart", "the two ends of each pair are within 2 points of each other on dev", at_most=2.0))
VOID = Gate("void", "at most one of three draws of pairs is void, because an end is not good", at_most=0.5)
DRAWS = 3

Experiment = Callable[[Context, int], Effects]


def redrawn(experiment: Experiment, gates: Sequence[Gate], context: Context, seed: int) -> Effects:
    """The experiment with the first draw of pairs that is good; those before are void: counted in the gate `void`, and shown.

    Args:
        experiment: gives the gates but `void`.
        gates: what every draw must pass.
        context: of the claims.
        seed: of the first draw; 10,000 more for each after it.
    """
    void: list[dict[str, Any]] = []
    for draw in range(DRAWS):
        found = experiment(context, seed + 10_000 * draw)
        if all(gate.at_least <= found.gates[gate.name] <= gate.at_most for gate in gates):
            break
        void.append({"pair": "void", "draw": draw, **found.gates})
    return replace(found, gates={**found.gates, VOID.name: float(len(void))}, records=[*found.records, *void])


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Rank correlation; 0 where one of the two is constant."""
    from scipy.stats import spearmanr

    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return 0.0
    return float(spearmanr(xs, ys).statistic)


def rows_of(name: str, found: Line, split: str = "dev") -> list[dict[str, Any]]:
    """Records of a line for figures."""
    values = zip(found["x"], found[split]["loss"], found[split]["value"], strict=True)
    return [
        {"pair": name, "x": x, "loss": loss, "value": value, "split": split, "metric": "accuracy"} for x, loss, value in values
    ]


def kept_run(context: Context, key: Mapping[str, Any], make: Callable[[Path], Any]) -> Path:
    """A folder that is made once for all claims."""
    return context.store.folder(key, make)


def tune_between(context: Context, left: Path, right: Path, what: str, train: Mapping[str, Any], **settings: Any) -> Path:
    """A learned curve (`what` "curve") or mixture ("mix") between two runs, as a run folder in the store."""
    from deltatune.core.reuse import open_run
    from deltatune.core.tuning import tune_to
    from deltatune.modeconn.bending import Bend
    from deltatune.modeconn.endpoints import identity
    from deltatune.modeconn.mixture import Mixture

    runs = [open_run(path) for path in (left, right)]
    ids = [{"digest": identity(run)["digest"]} for run in runs]
    first, ends = runs[0], [run.saved.weights for run in runs]
    deltas = first.saved.configs
    one = config("Full" if type(deltas[0]).__name__ == "Full" else "Houlsby", 0, int(train["data_seed"]), snapshots=None)
    optimizer = replace(one.train.optimizer, lr=train["lr"], max_grad_norm=None)
    one = replace(
        one,
        deltas=deltas,
        train=replace(one.train, optimizer=optimizer, batch_size=16, steps=train["steps"], eval_every=train["steps"]),
    )

    def make(target: Path) -> None:
        method = (
            Bend(ends[0], ends[1], ids, target, **settings) if what == "curve" else Mixture(ends[0], ends[1], ids, **settings)
        )
        about = {"command": "deltatune reproduce", "tag": "reproduce"}
        tune_to(one, target, about, "# See run.json.\n", method=method, progress=False)

    key = {what: ids, "train": dict(train), "settings": settings, "run": one.identity()}
    return kept_run(context, key, make)
