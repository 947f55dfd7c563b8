"""What the claims share: sources of the built-in world, targets with few examples, weights, and tuning from their mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deltatune.core.claims import CannotRunError, Context, Gate
from deltatune.core.run import plain

if TYPE_CHECKING:
    from torch import Tensor

    from deltatune.core.data import Task
    from deltatune.core.delta import Tuned
    from deltatune.core.train_config import TrainConfig
    from deltatune.core.tune_config import TaskChoice, TuneConfig
    from deltatune.ensemble.bench import Prepared
    from deltatune.ensemble.scoring import Target
    from deltatune.ensemble.sources import Source

BASE = "world/t5"
Kind = Literal["Houlsby", "LoRA", "Prefix"]
KINDS: tuple[Kind, ...] = ("Houlsby", "LoRA", "Prefix")
# The kinds of task that are above chance on this base (docs/world.md); they stand for the paper's categories.
FAMILIES = ("sentiment", "topic", "aspect", "relation", "inference", "paraphrase")
SOURCES = tuple(f"{family}-{number}" for family in FAMILIES for number in range(4))
# One of each kind, in a domain whose test scores chose no rate of the sources.
TARGETS = tuple(f"{family}-2" for family in FAMILIES)
# One source of each kind, for what needs a tuning run of every source on every target.
FEW = tuple(f"{family}-0" for family in FAMILIES)
# Those of the targets where sixteen examples of each class leave room below 2,000 examples (docs/world.md).
ROOMY = tuple(f"{family}-2" for family in ("aspect", "relation", "inference", "paraphrase"))
SHOTS, TEST, UPDATES, BATCH, EVERY = 16, 200, 40, 8, 20
# Where there are many runs of each target, or many targets (C3, C7, C10, C14): shorter, and the last weights.
BRIEF = 20
# The best of three for initial values, by the mean dev score of the targets with seed 101.
RATES: dict[Kind, float] = {"Houlsby": 1e-2, "LoRA": 3e-2, "Prefix": 0.3}
# All that the published programs name, from one source alone to nearly equal weights.
TEMPERATURES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
EXAMPLES = 50  # of dev behind a score, as published
Pool = Literal["all", "few", "apart", "shuffled"]
SETTINGS: dict[str, Any] = {
    "base": BASE,
    "sources": SOURCES,
    "targets": TARGETS,
    "few": FEW,
    "roomy": ROOMY,
    "shots": SHOTS,
    "test": TEST,
    "updates": UPDATES,
    "batch": BATCH,
    "every": EVERY,
    "brief": BRIEF,
    "rates": RATES,
    "temperatures": TEMPERATURES,
    "examples": EXAMPLES,
}


@dataclass(frozen=True)
class Case:
    """A target with one sample of its examples.

    Args:
        target: short name.
        seed: of the sample, the order of examples and dropout. Initial values are those of the sources throughout, as published.
        kind: of the deltas.
        shots: examples of each class for training, and as many for dev; `SHOTS` by default.
        every: updates between evaluations on dev; `EVERY` by default.
        brief: `BRIEF` updates, of which the last weights are taken.
    """

    target: str
    seed: int
    kind: Kind = "Houlsby"
    shots: int | None = None
    every: int | None = None
    brief: bool = False

    def choice(self) -> TaskChoice:
        """Which examples."""
        from deltatune.core.tune_config import TaskChoice

        return TaskChoice(f"world/{self.target}", shots=self.shots or SHOTS, sample_seed=self.seed, max_test=TEST)

    def train(self) -> TrainConfig:
        """How it is tuned, from whatever start."""
        from deltatune.core.optim import OptimizerConfig
        from deltatune.core.train_config import TrainConfig

        return TrainConfig(
            OptimizerConfig(lr=RATES[self.kind], warmup=0.06),
            steps=BRIEF if self.brief else UPDATES,
            batch_size=BATCH,
            eval_every=self.every or (UPDATES if self.brief else EVERY),
            select="last" if self.brief else "best",
            ties="last",
            data_seed=self.seed,
            dropout_seed=self.seed,
        )

    def key(self) -> dict[str, Any]:
        """Everything about it that decides a result, as plain values."""
        sample = {"target": self.target, "seed": self.seed, "kind": self.kind, "shots": self.shots or SHOTS}
        return {"base": BASE, "case": sample, "test": TEST, "train": plain(asdict(self.train()))}

    def config(self) -> TuneConfig:
        """The whole run, but for its start."""
        from deltatune.core.backbone import BackboneConfig
        from deltatune.core.tune_config import TuneConfig
        from deltatune.core.world_deltas import SOURCES as MADE

        return TuneConfig(BackboneConfig(BASE, form="text", device="cpu"), self.choice(), (MADE[self.kind][0],), self.train())


def need_world() -> None:
    """Say "not run" where the package comes without the model or its deltas.

    Raises:
        CannotRunError: one of them is not there.
    """
    from deltatune.core.world_models import DELTAS, names

    if BASE.removeprefix("world/") not in names() or not all((DELTAS / name / "Houlsby").is_dir() for name in SOURCES):
        raise CannotRunError(f"this version of deltatune ships no {BASE} with its deltas")


@dataclass(frozen=True)
class Stage:
    """The base in memory with a delta of one kind, which every source and start takes turns in."""

    tuned: Tuned
    initial: Mapping[str, Tensor]


@lru_cache(maxsize=3)
def stage(kind: Kind) -> Stage:
    """The stage of `kind`, its delta with the sources' initial values."""
    import torch

    from deltatune.core.delta import attach
    from deltatune.core.loading import load_backbone

    need_world()
    config = Case(TARGETS[0], 0, kind).config()
    tuned = attach(load_backbone(config.backbone), *config.deltas, generator=torch.Generator().manual_seed(config.init_seed))
    return Stage(tuned, tuned.weights())


@lru_cache(maxsize=64)
def task_of(case: Case) -> Task:
    """The examples of `case`."""
    return case.choice().load()


def source(name: str, path: Path) -> Source:
    """A source delta from its folder."""
    from deltatune.core import checkpoint
    from deltatune.ensemble.sources import Source

    return Source(name, path, checkpoint.read(path), name)


@lru_cache(maxsize=3)
def shipped(kind: Kind) -> dict[str, Source]:
    """All sources that come with the world, tuned on 2,000 examples from one initial delta."""
    from deltatune.core.world_models import DELTAS

    need_world()
    return {name: source(name, DELTAS / name / kind) for name in SOURCES}


def pool(name: Pool, case: Case) -> dict[str, Source]:
    """The foreign sources of a target.

    Args:
        name: all: that come with the world; few: one of each kind of task of those; apart: the same tasks, each tuned from
            initial values of its own (these come with the world, too); shuffled: `few`, the hidden units of each in an order of
            its own.
        case: the target.
    """
    from deltatune.core.world_models import DELTAS
    from deltatune.ensemble.claims.unaligned import with_units_shuffled

    found = shipped(case.kind)
    if name != "all":
        found = {task: found[task] for task in FEW}
    if name == "apart":
        found = {task: source(task, DELTAS / task / f"{case.kind}-apart") for task in FEW}
    if name == "shuffled":
        found = {task: with_units_shuffled(one, case.seed * len(FEW) + i) for i, (task, one) in enumerate(found.items())}
    return {task: one for task, one in found.items() if task != case.target}


def prepared(case: Case, sources: Mapping[str, Source], reference: Mapping[str, Tensor] | None = None) -> Prepared:
    """The target ready to be scored on.

    Args:
        case: the target.
        sources: its foreign sources.
        reference: a delta tuned on it.
    """
    from deltatune.core.formats import build_format
    from deltatune.ensemble.bench import Prepared
    from deltatune.ensemble.scoring import Budget, Target

    tuned, task = stage(case.kind).tuned, task_of(case)
    form = build_format(tuned.backbone, task, case.choice().max_length, [delta.config for delta in tuned.kinds()])
    return Prepared(case.target, Target(tuned, form, task, Budget(max_examples=EXAMPLES), reference), sources, "none")


Values = Callable[[], "Mapping[str, Tensor] | None"]
Run = dict[str, Any]  # test: points; curve: [updates, dev points]


def tune_from(context: Context, case: Case, key: Mapping[str, Any], start: Values) -> tuple[Run, Path]:
    """Tune from a start; what came of it, and the folder of the tuned delta.

    Args:
        context: of the experiment.
        case: the target.
        key: what decided the start, as plain values: the run is kept under it.
        start: gives the values; None for the sources' initial ones.
    """
    from deltatune.core.files import read_json

    folder = context.store.folder({"ensemble run": dict(key), **case.key()}, lambda path: _tune(case, start(), path))
    found: Run = read_json(folder / "scores.json")
    return found, folder / "delta"


def begun(case: Case, start: Mapping[str, Tensor] | None) -> tuple[Stage, Target]:
    """The stage, which holds the values of `start` (None: the sources' initial ones), and the target."""
    here, ready = stage(case.kind), prepared(case, {})
    here.tuned.load(start if start is not None else here.initial)
    return here, ready.target


def _tune(case: Case, start: Mapping[str, Tensor] | None, folder: Path) -> None:
    from deltatune.core import checkpoint
    from deltatune.core.files import write_json
    from deltatune.core.train import Hooks
    from deltatune.core.tuning import tune_prepared

    here, target = begun(case, start)
    result = tune_prepared(case.config(), here.tuned, target.form, target.task, Hooks(progress=False))
    curve = [(step, 100 * value) for step, value in result.history.evaluations]
    if result.test is None or result.dev is None:
        raise CannotRunError(f"{case.target} has no test or no dev examples")
    checkpoint.save(folder / "delta", here.tuned, {"task": case.target}, result.weights)
    scores = {"test": 100 * result.test.value, "dev": 100 * result.dev.value, "loss": result.test.loss, "curve": curve}
    write_json(folder / "scores.json", scores)


def chance(target: str) -> float:
    """The score of a guess, in points; the classes have equal shares."""
    labels: list[str] = shipped("Houlsby")[target].saved.about["labels"]
    return 100 / len(labels)


def solved(kind: Kind = "Houlsby", names: Sequence[str] | None = None) -> float:
    """How far the worst of the sources is above chance on its own task, in points, from the record that it came with."""
    scores = {name: shipped(kind)[name].saved.about["scores"]["test"]["value"] for name in names or SOURCES}
    return min(100 * float(value) - chance(name) for name, value in scores.items())


SOLVED = Gate("solved", "each source scores at least 10 points above chance on its own task", at_least=10.0)
