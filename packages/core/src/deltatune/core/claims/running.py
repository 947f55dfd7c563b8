"""Running claims seed by seed: in this process or in several, each result kept as soon as it is there."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deltatune.core.claims.claim import CannotRunError, Claim
from deltatune.core.claims.context import Context
from deltatune.core.claims.installed import load_claims, unit_config
from deltatune.core.claims.store import Store


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


def run_units(units: Sequence[Unit], root: Path, workers: int, report: Report = lambda done: None) -> list[Done]:
    """Measure all units; those measured before are found again, and after a claim's first failure its other seeds are left.

    Args:
        units: in the order to start them.
        root: of the store.
        workers: processes that measure; the cores are divided among them. With 1, this process does it.
        report: called with each unit as it ends.

    Raises:
        KeyboardInterrupt: as it came; all that was measured is kept.
    """
    store, results = Store(root), []
    open_units = []
    for unit in units:
        measured = store.peek(unit_config(unit.claim, unit.module, unit.seed))
        if measured is None:
            open_units.append(unit)
        else:
            results.append(Done(unit, measured, found=True))
            report(results[-1])
    workers = min(workers, len(open_units))
    ended = _here(open_units, root) if workers <= 1 else _pooled(open_units, root, workers)
    for done in ended:
        results.append(done)
        report(done)
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


def cores() -> int:
    """How many cores this process was given."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, given)


def _here(units: Sequence[Unit], root: Path) -> Iterator[Done]:
    failed: dict[str, Done] = {}
    for unit in units:
        before = failed.get(unit.claim.name)
        done = measure(unit, root) if before is None else Done(unit, None, before.error, before.expected)
        if done.measured is None:
            failed[unit.claim.name] = done
        yield done


def _pooled(units: Sequence[Unit], root: Path, workers: int) -> Iterator[Done]:
    threads = max(1, cores() // workers)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    # Read by the children's libraries when they are loaded; a limit that the user set is kept.
    os.environ.update({name: str(min(threads, _number(before[name], threads))) for name in names})
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        futures = {pool.submit(_elsewhere, unit.claim.paper, unit.module, unit.claim.id, unit.seed, root): unit for unit in units}
        yield from _collect(futures)
        pool.shutdown()
    finally:
        # After Ctrl-C nobody waits for the experiments that are under way; the next run starts them again.
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _collect(futures: Mapping[Future[tuple[dict[str, Any] | None, str, bool]], Unit]) -> Iterator[Done]:
    for future in as_completed(futures):
        unit = futures[future]
        if future.cancelled():
            continue
        try:
            done = Done(unit, *future.result())
        except BrokenProcessPool:
            done = Done(unit, None, "a worker process was ended from outside, for want of memory perhaps; try fewer --workers")
        yield done
        if done.measured is None:
            for other, its in futures.items():
                if its.claim.name == unit.claim.name and other.cancel():
                    yield Done(its, None, done.error, done.expected)


def _begin() -> None:
    """In a new worker: Ctrl-C is the parent's to handle, and a worker does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _elsewhere(paper: str, module: str, claim_id: str, seed: int, root: Path) -> tuple[dict[str, Any] | None, str, bool]:
    """`measure` in a worker. A claim is named, not sent: its experiment need not be something that can be pickled."""
    claim = next(claim for claim in load_claims(paper, module) if claim.id == claim_id)
    done = measure(Unit(claim, module, seed), root)
    return done.measured, done.error, done.expected


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isdigit() and int(text) > 0 else otherwise


def _scalar(value: Any) -> Any:
    """The plain value of a tensor or an array, which JSON does not know."""
    return value.tolist()
