"""Running claims seed by seed: in this process or in several, each result kept as soon as it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from deltatune.core.between_runs import keeping
from deltatune.core.claims.claim import CannotRunError, Claim
from deltatune.core.claims.context import Context
from deltatune.core.claims.installed import load_claims, unit_config
from deltatune.core.claims.store import Store
from deltatune.core.pool import run_jobs


@dataclass(frozen=True)
class Unit:
    """One claim with one seed.

    Args:
        claim: which.
        module: where it comes from; another process finds it there again.
        seed: any.
    """

    claim: Claim
    module: str
    seed: int


@dataclass(frozen=True)
class Done:
    """How a unit ended.

    Args:
        unit: which.
        measured: `effect`, `controls`, `gates`, `records` and `seconds`; None if it failed.
        error: why it failed, else empty.
        expected: the failure says that the claim cannot be run here; nothing is broken.
        found: the measurement is of an earlier run.
    """

    unit: Unit
    measured: dict[str, Any] | None
    error: str = ""
    expected: bool = False
    found: bool = False


Report = Callable[[Done], None]
Name = tuple[str, str, str, int]  # of a unit: paper, module, id, seed
Found = tuple[dict[str, Any] | None, str, bool]  # of a unit: measured, error, expected
_KILLED: Found = (None, "a worker process was ended from outside, for want of memory perhaps; try fewer --workers", False)


def run_units(units: Sequence[Unit], root: Path, workers: int, report: Report = lambda done: None) -> list[Done]:
    """Measure all units; those measured before are found again, and after a claim's first failure its other seeds are left.

    Args:
        units: in the order to start them.
        root: of the store.
        workers: processes that measure; the cores are divided among them. With 1, this process does it.
        report: called with each unit as it ends, one call at a time.

    Raises:
        DeltatuneError: more workers than cores.
        KeyboardInterrupt: as it came; all that was measured is kept.
    """
    store, results = Store(root), list[Done]()
    failed: dict[str, Done] = {}
    to_do: list[Unit] = []

    def take(done: Done) -> None:
        if done.measured is None:
            failed.setdefault(done.unit.claim.name, done)
        results.append(done)
        report(done)

    def left() -> Iterator[Unit]:
        for unit in to_do:
            if (before := failed.get(unit.claim.name)) is None:
                yield unit
            else:
                take(replace(before, unit=unit))

    for unit in units:
        measured = store.peek(unit_config(unit.claim, unit.module, unit.seed))
        if measured is None:
            to_do.append(unit)
        else:
            take(Done(unit, measured, found=True))
    if min(workers, len(to_do)) <= 1:
        with keeping():
            for unit in left():
                take(measure(unit, root))
    else:
        named = {_name(unit): unit for unit in to_do}
        there = partial(_elsewhere, root=root)
        run_jobs(there, map(_name, left()), workers, lambda name, found: take(Done(named[name], *(found or _KILLED))))
    return results


def measure(unit: Unit, root: Path) -> Done:
    """Run one unit, or find what another process measured; a failure is a result, too."""
    store = Store(root)

    def make() -> Any:
        started = time.perf_counter()
        effects = unit.claim.run(Context(store), unit.seed)
        unit.claim.check(effects)
        values = {**asdict(effects), "seconds": round(time.perf_counter() - started, 3)}
        return json.loads(json.dumps(values, default=_scalar))

    try:
        return Done(unit, store.get(unit_config(unit.claim, unit.module, unit.seed), make))
    except CannotRunError as error:
        return Done(unit, None, " ".join(str(error).split()), expected=True)
    except Exception as error:  # whatever an experiment raises, the others go on
        return Done(unit, None, " ".join(f"{type(error).__name__}: {error}".split()))


def _name(unit: Unit) -> Name:
    return unit.claim.paper, unit.module, unit.claim.id, unit.seed


def _elsewhere(name: Name, root: Path) -> Found:
    """`measure` in a worker. A claim is named, not sent: its experiment need not be something that can be pickled."""
    paper, module, claim_id, seed = name
    claim = next(claim for claim in load_claims(paper, module) if claim.id == claim_id)
    done = measure(Unit(claim, module, seed), root)
    return done.measured, done.error, done.expected


def _scalar(value: Any) -> Any:
    """The plain value of a tensor or an array, which JSON does not know."""
    return value.tolist()
