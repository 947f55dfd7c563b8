"""Independent jobs in processes of their own, the cores divided among them.

Processes that share a core wait for each other's threads: two with two threads each on two cores were measured to take 40
times as long as one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TypeVar

import psutil

from deltatune.core.between_runs import keep_always
from deltatune.core.errors import DeltatuneError

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(workers: int) -> int:
    """Threads of each of `workers` processes.

    Raises:
        DeltatuneError: no worker, or more of them than cores.
    """
    if workers < 1:
        raise DeltatuneError(f"--workers must be at least 1, got {workers}")
    if workers > cores():
        raise DeltatuneError(
            f"--workers {workers}: {cores()} cores are here, and processes that share one wait; give at most that"
        )
    return cores() // workers


def run_jobs(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, done: Callable[[Job, Result | None], None]
) -> None:
    """Run `function` on every job, at most `workers` at a time, each in a fresh interpreter (`spawn`) that takes job after job.

    A process that dies takes its own job with it and no other. Where this process ends, its workers end as well.

    Args:
        function: of a module's top level; it returns what went wrong rather than raise it.
        jobs: what can be pickled; each is taken when a process is free for it, and never while `done` is called, so an iterator
            may leave out what earlier results have made pointless.
        workers: processes.
        done: called after each job, one call at a time, with its result, or with None where its process died.

    Raises:
        BaseException: what `function` or `done` raised; jobs under way are ended, the others are not begun.
    """
    threads, waiting, lock, ended = threads_for(workers), iter(jobs), threading.Lock(), threading.Event()
    processes: dict[int, _Worker] = {}

    def serve(number: int) -> None:
        """Pass jobs to one process, and to a new one where it dies, until none is left."""
        try:
            while not ended.is_set():
                with lock:
                    job = next(waiting, None)
                if job is None:
                    break
                if number not in processes:
                    processes[number] = _Worker(threads)
                result = None if ended.is_set() else processes[number].result(function, job)
                if processes[number].died:
                    processes.pop(number).close()
                if not ended.is_set():  # else the process was ended, not the job
                    with lock:
                        done(job, result)
        except BaseException:
            ended.set()
            raise
        finally:
            if number in processes:
                processes[number].close()

    with ThreadPoolExecutor(workers) as servers:
        served = [servers.submit(serve, number) for number in range(workers)]
        try:
            for future in as_completed(served):
                future.result()
        except BaseException:
            ended.set()
            for process in list(processes.values()):
                process.end()
            raise


class _Worker:
    """One process that takes job after job."""

    def __init__(self, threads: int) -> None:
        """Begin it."""
        self.executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (threads,))
        self.died = False
        self.pid = self.executor.submit(os.getpid).result()

    def result(self, function: Callable[[Job], Result], job: Job) -> Result | None:
        """What `function` returns of `job` there; None where the process dies."""
        try:
            return self.executor.submit(function, job).result()
        except BrokenProcessPool:
            self.died = True
            return None

    def end(self) -> None:
        """From another thread: stop the job that is under way."""
        with suppress(psutil.NoSuchProcess):
            psutil.Process(self.pid).terminate()

    def close(self) -> None:
        """Let the process go."""
        self.executor.shutdown()


def _begin(threads: int) -> None:
    """In a new process: take a share of the cores, leave Ctrl-C to the parent, do not outlive it, and load models once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):  # read when the libraries are loaded
        given = os.environ.get(name, "")
        os.environ[name] = str(min(threads, int(given)) if given.isdigit() and int(given) > 0 else threads)
    if "torch" in sys.modules:  # a script that imports it first, which is imported anew in each process
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_always()
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
