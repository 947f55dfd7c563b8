"""Short trainings of combinations on parts of a few examples, within a budget of time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from deltatune.combos.methods import Combined
from deltatune.combos.plans import Plan
from deltatune.combos.suggestion import Cost, Suggestion, Way, conclude
from deltatune.core.backbone import Backbone
from deltatune.core.batches import Batch
from deltatune.core.data import Example, Task
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.evidence import Clock, deal
from deltatune.core.formats import Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.train import Hooks
from deltatune.core.tuning import tune_prepared

LEAST = 16  # examples
LEAST_UPDATES, FEWEST_FOLDS = 20, 2
_NEVER = 1_000_000
_TIMED = 4  # updates that are timed, after one that warms up
_SHARE = 0.8  # of the budget that is planned with; the rest is for what takes longer than was measured
_LATEST = 1.08  # of the budget; whatever is under way then is given up


class _TimeIsUpError(Exception):
    """Ends a training whose time has passed."""


@dataclass
class _Timed(Combined):
    """Training that ends when the budget is spent."""

    until: float = math.inf
    passes: int = 0

    def loss(self, tuned: Tuned, form: Format, batch: Batch) -> Tensor:
        """See `Combined`."""
        if time.perf_counter() > self.until:
            raise _TimeIsUpError
        self.passes += 1
        return super().loss(tuned, form, batch)


@dataclass(frozen=True)
class Measured:
    """How long is trained: updates of every training, about how many seconds a fold takes, whether the user gave the updates."""

    updates: int
    fold: float
    given: bool = False


@dataclass
class Trials:
    """Where ways are tried: model and examples, loaded once.

    Args:
        plan: of a run; its combination and rate are replaced by those of a way.
        clock: of the budget.
    """

    plan: Plan
    clock: Clock
    _costs: dict[Way, Cost] = field(default_factory=dict, repr=False)
    _passes: int = field(default=0, repr=False)

    @cached_property
    def task(self) -> Task:
        """With all training examples."""
        return self.plan.config.task.load()

    @cached_property
    def backbone(self) -> Backbone:
        """The pre-trained model."""
        return load_backbone(self.plan.config.backbone, num_labels=1 if self.task.regression else max(1, len(self.task.labels)))

    def run(self, way: Way, train: Sequence[Example], held: Sequence[Example], updates: int, until: float = math.inf) -> Scores:
        """Train on some examples, score others.

        Raises:
            _TimeIsUpError: it is later than `until`, by `time.perf_counter`.
        """
        plan = replace(self.plan, combination=way.combination)
        number = min(1, len(way.combination.stages))
        config = plan.stage_config(number)
        asked = replace(self.task.config, template=config.task.template or self.task.config.template)
        task = replace(self.task, config=asked, train=tuple(train), dev=(), test=())
        schedule = replace(config.train, steps=updates, epochs=None, eval_every=_NEVER, select="last", log_every=_NEVER)
        schedule = replace(schedule, early_stopping=None, snapshots=None, save_every=None)
        rate = config.train.optimizer.lr if way.rate is None else way.rate
        config = replace(config, train=replace(schedule, optimizer=replace(schedule.optimizer, lr=rate)))
        begun = time.perf_counter()
        tuned = attach(self.backbone, *config.deltas, generator=torch.Generator().manual_seed(config.init_seed), head=number > 0)
        method = self._method(plan, way, until)
        try:
            form = build_format(self.backbone, task, config.task.max_length, config.deltas)
            form = method.asks(tuned, form)
            method.begin(tuned, form, task)
            if number:
                tune_prepared(config, tuned, form, task, Hooks(progress=False), method=method)
                trained = sum(tensor.numel() for tensor in method.trained(tuned).values())
                self._costs[way] = Cost(trained, time.perf_counter() - begun)
            return evaluate(tuned, form, held)
        finally:
            self._passes += method.passes
            tuned.detach()

    def _method(self, plan: Plan, way: Way, until: float) -> _Timed:
        stage = way.combination.stages[0] if way.combination.stages else ()
        template = plan.template if plan.in_template else ""
        switches = (plan.dropout, plan.regression_loss, False, plan.demos)
        return _Timed(str(way.combination), template, stage, None, *switches, until=until)

    def costs(self, ways: Sequence[Way], folds: int) -> tuple[float, float]:
        """Seconds of one update of all ways together, and of everything else in one fold.

        Raises:
            DeltatuneError: not even the measurement fits into the budget.
        """
        part = deal(self.task.train, folds)[0]
        held = [self.task.train[row] for row in part]
        updating = other = 0.0
        for done, way in enumerate(ways):
            taken = [self._timed(way, held, steps) for steps in (1, 1 + _TIMED)]
            update = max(taken[1] - taken[0], 0.0) / _TIMED if way.combination.stages else 0.0
            updating += update
            other += max(taken[1] - (1 + _TIMED) * update, 0.0)
            left = FEWEST_FOLDS * (other + LEAST_UPDATES * updating) * len(ways) / (done + 1)
            self.clock.require(left, f"{len(ways)} ways, each trained for {LEAST_UPDATES} updates in {FEWEST_FOLDS} folds")
        return updating, other

    def _timed(self, way: Way, held: Sequence[Example], updates: int) -> float:
        begun = time.perf_counter()
        self.run(way, self.task.train, held, updates)
        return time.perf_counter() - begun

    def measure(self, ways: Sequence[Way], folds: int, updates: int | None, most: int) -> Measured:
        """How long is trained within the budget.

        All ways get the same number of updates: as many as there is time for, at most `most`.

        Args:
            ways: what is tried.
            folds: parts of the examples.
            updates: of every training; None takes what the budget allows.
            most: of these.

        Raises:
            DeltatuneError: too few examples, or the budget is too small; with the one that would do.
        """
        count = len(self.task.train)
        if count < LEAST:
            raise DeltatuneError(
                f"task {self.task.name} has {count} training examples, and a suggestion needs {LEAST}; label some more"
            )
        if not FEWEST_FOLDS <= folds <= count // 4:
            raise DeltatuneError(f"--folds must be from 2 to {count // 4} with {count} examples, got {folds}")
        updating, other = self.costs(ways, folds)
        given = updates is not None
        if updates is None:
            room = _SHARE * self.clock.budget - self.clock.spent - folds * other
            updates = max(LEAST_UPDATES, min(most, int(room / (folds * updating)) if updating else most))
        fold = other + updates * updating
        self.clock.require(FEWEST_FOLDS * fold, f"{len(ways)} ways, each trained for {updates} updates in {FEWEST_FOLDS} folds")
        return Measured(updates, fold, given)

    def suggest(self, ways: Sequence[Way], folds: int, measured: Measured, reference: Way) -> Suggestion:
        """Try every way by cross-validation over the training examples; dev and test are not looked at.

        Where the machine turns out slower than was measured, trainings are begun again with fewer updates, unless the user gave
        their number. Where the time is up before every fold was held out, the evidence is of the folds that were.

        Args:
            ways: what is tried.
            folds: parts of the examples.
            measured: by `measure`.
            reference: one of the ways.

        Raises:
            DeltatuneError: the time was up before two folds were held out.
        """
        parts, updates = deal(self.task.train, folds), measured.updates
        while not (held := self._held_out(ways, parts, updates, measured.fold * updates / measured.updates)):
            if measured.given or updates == LEAST_UPDATES:
                raise DeltatuneError(
                    f"--budget {self.clock.budget:g} s: {updates} updates took longer than was measured; raise it, or give fewer "
                    "--methods or --updates"
                )
            updates = self._fewer(ways, updates)
        return conclude({way: [scores[way] for scores in held] for way in ways}, self._costs, reference, updates)

    def _fewer(self, ways: Sequence[Way], updates: int) -> int:
        """How many updates two folds have time for, by the pace so far; fewer than before.

        Raises:
            DeltatuneError: too few; with the budget that would do.
        """
        passes = self.plan.config.train.accumulation * sum(bool(way.combination.stages) for way in ways)
        update = passes * self.clock.spent / max(1, self._passes)  # of all ways, evaluations and loading included
        what = f"{len(ways)} ways, each trained for {LEAST_UPDATES} updates in {FEWEST_FOLDS} folds"
        self.clock.require(FEWEST_FOLDS * LEAST_UPDATES * update, what)
        room = _SHARE * (self.clock.budget - self.clock.spent)
        return max(LEAST_UPDATES, min(updates // 2, int(room / (FEWEST_FOLDS * update))))

    def _held_out(
        self, ways: Sequence[Way], parts: Sequence[list[int]], updates: int, expected: float
    ) -> list[dict[Way, Scores]]:
        """The scores of all ways on the held-out examples, fold by fold; nothing if two folds take longer than is left."""
        examples, latest = self.task.train, self.clock.begun + _LATEST * self.clock.budget
        found: list[dict[Way, Scores]] = []
        for part in parts:
            missing = FEWEST_FOLDS - len(found)
            if missing <= 0 and self.clock.spent + expected > self.clock.budget:
                break
            begun, inside = self.clock.now, set(part)
            rest, held = ([e for row, e in enumerate(examples) if (row in inside) is kept] for kept in (False, True))
            until = begun + (latest - begun) / max(1, missing)
            try:
                found.append({way: self.run(way, rest, held, updates, until) for way in ways})
            except _TimeIsUpError:
                return found if missing <= 0 else []
            expected = max(expected, self.clock.now - begun)
        return found
