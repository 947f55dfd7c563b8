"""`grid`: all combinations over templates, learning rates, batch sizes and seeds, as one resumable list of runs."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.combos.combination import SIMULTANEOUS, Combination
from deltatune.combos.commands.gathering import show
from deltatune.combos.commands.running import PROGRAM, planning
from deltatune.combos.plans import Plan, carry_out
from deltatune.combos.results import Row, row_of
from deltatune.core.between_runs import keeping
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig, diagnose
from deltatune.core.cli.sharing import sharing
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held, read_json, write_json, write_text
from deltatune.core.pool import run_jobs, threads_for
from deltatune.core.run import append_records, versions

SEEDS = (13, 21, 42, 87, 100)
FEW_SHOT_RATES: Mapping[str, tuple[float, ...]] = {
    "prompt": (1e-2, 3e-3, 1e-3, 3e-4),
    "bias": (3e-3, 1e-3, 3e-4, 1e-4),
    "other": (1e-3, 3e-4, 1e-4, 3e-5),
}
"""The published rates of 16-shot runs; those of full data are 1e-2, 1e-3, 1e-4, 1e-5 for all."""


@dataclass(frozen=True)
class Job:
    """A run of the grid: its plan, its folder, and the options it came from."""

    plan: Plan
    path: Path
    config_yaml: str
    tag: str


@dataclass(frozen=True)
class Choice:
    """What a grid varies; None takes what is published (see `grid`)."""

    methods: Sequence[str] | None = None
    templates: Sequence[str] | None = None
    rates: Sequence[float] | Mapping[str, Sequence[float]] | None = None
    batch_sizes: Sequence[int] | None = None
    seeds: Sequence[int] | None = None


@sharing(planning, without=("template", "lr", "seed", "init_seed", "data_seed", "sample_seed"))
def grid(
    out_dir: Path,
    config_yaml: SavedConfig,
    methods: list[str] | None = None,
    templates: list[str] | None = None,
    rates: list[float] | dict[str, list[float]] | None = None,
    batch_sizes: list[int] | None = None,
    seeds: list[int] | None = None,
    workers: int = 1,
    dry_run: bool = False,
    tag: str = "",
    **options: Any,
) -> int:
    """Tune every combination with every template, learning rate, batch size and seed, and make the table of the paper.

    Each run is a folder below OUT_DIR/runs; the command given again goes on where it stopped, and a longer list adds runs. A run
    that fails is reported and the others go on. Zero-shot runs need no rate, batch size or seed and are made once for a template.

    Args:
        out_dir: folder of the grid.
        config_yaml: filled in by the program.
        methods: combinations such as prompt+bias, sequences such as 'adapter>prompt>bias', or none; by default the eight subsets
            of prompt, bias and adapter.
        templates: manual, none, or templates as text; by default both names, and one run of each with --form head.
        rates: learning rates, or those of each combination, with other for the rest: {prompt: [1e-2], other: [1e-3, 3e-4]}; by
            default the published ones of 16-shot runs.
        batch_sizes: by default the one of --train.batch_size.
        seeds: of everything; in --data_dir, {seed} stands for it; by default the published 13, 21, 42, 87 and 100.
        workers: runs at a time, each in a process with its share of the cores.
        dry_run: only print how many runs there are, and how many are finished.
        tag: a word of yours that goes into the records.
    """
    choice = Choice(methods, templates, rates, batch_sizes, seeds)
    jobs = [Job(plan, out_dir / "runs" / name, config_yaml, tag) for name, plan in plans_of(choice, options)]
    threads_for(workers)
    if dry_run:
        _foretell(jobs)
        return 0
    with held(out_dir):
        _claim(out_dir, config_yaml)
        failed = work(jobs, workers)
        rows = [row for job in jobs if (row := _row(job.path)) is not None]
        _write(out_dir, jobs, failed)
    if rows:
        show(rows, "per_seed")
    for name, error in failed.items():
        output().print(f"failed: {name}: {error}", soft_wrap=True)
    return 2 if failed else 0


def plans_of(choice: Choice, options: Mapping[str, Any]) -> list[tuple[str, Plan]]:
    """Name and plan of every run; `options` are those of `planning`."""
    drawn = list(dict.fromkeys(choice.seeds or SEEDS))
    head = options.get("form") == "head"
    asked = list(dict.fromkeys(["manual"] if head else choice.templates or ["manual", "none"]))
    texts = choice.methods or [name for name in SIMULTANEOUS if not (head and name == "none")]
    bases = {seed: planning(seed=seed, **options) for seed in drawn}
    sizes = list(dict.fromkeys(choice.batch_sizes or [bases[drawn[0]].config.train.batch_size]))
    return [
        named
        for template in asked
        for combination in map(Combination.parse, dict.fromkeys(texts))
        for named in _plans(bases, combination, template, rates_of(choice.rates, combination), sizes)
    ]


def rates_of(given: Sequence[float] | Mapping[str, Sequence[float]] | None, combination: Combination) -> Sequence[float | None]:
    """The rates of a combination; a single None for zero-shot.

    Raises:
        DeltatuneError: none is given for it.
    """
    if not combination.stages:
        return [None]
    if given is not None and not isinstance(given, Mapping):
        return list(dict.fromkeys(given))
    known = {
        str(Combination.parse(name)) if name != "other" else name: rates for name, rates in (given or FEW_SHOT_RATES).items()
    }
    found = known.get(str(combination), known.get("other"))
    if not found:
        raise DeltatuneError(f"--rates has none for {combination}; name it, or give {{other: [1e-3]}}")
    return list(dict.fromkeys(found))


def _plans(
    bases: Mapping[int, Plan], combination: Combination, template: str, rates: Sequence[float | None], sizes: Sequence[int]
) -> Iterator[tuple[str, Plan]]:
    """Names and plans of a combination's runs with one template."""
    title = f"{_plain(template)}_{str(combination).replace('>', '-then-')}"
    if not combination.stages:
        first = next(iter(bases.values()))
        yield title, replace(first, combination=combination, template=template)
        return
    for size in sizes:
        for rate in rates:
            for seed, base in bases.items():
                config = base.config
                train = replace(config.train, batch_size=size, optimizer=replace(config.train.optimizer, lr=rate))
                name = "_".join([title, f"lr-{rate:g}", *([f"batch-{size}"] if len(sizes) > 1 else []), f"seed-{seed}"])
                yield name, replace(base, combination=combination, template=template, config=replace(config, train=train))


def _plain(template: str) -> str:
    """A template as part of a file name."""
    return "".join(letter if letter.isalnum() else "-" for letter in template).strip("-")[:60] or "template"


def carry_out_job(job: Job, quiet: bool = False) -> str:
    """Do one run; what went wrong in one line, else nothing."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        if quiet:
            stack.enter_context(redirect_stderr(io.StringIO()))
        try:
            carry_out(job.plan, job.path, {"command": f"{PROGRAM} grid", "tag": job.tag}, job.config_yaml)
        except Exception as error:  # whatever a run raises, the others go on
            return " ".join(diagnose(error)[0].split())
    return ""


def work(jobs: Sequence[Job], workers: int) -> dict[str, str]:
    """Do what is not finished; name of the run -> what went wrong."""
    failed: dict[str, str] = {}
    show, ended = output().print, 0

    def done(job: Job, error: str | None) -> None:
        nonlocal ended
        ended += 1
        if error != "":
            failed[job.path.name] = error or "its process was killed, for want of memory perhaps"
        row = _row(job.path)
        scored = f"dev {row.trial.dev:.4f}" if row is not None and not error else f"failed: {failed.get(job.path.name, '')}"
        show(f"[{ended}/{len(jobs)}] {job.path.name}: {scored}", soft_wrap=True)
        sys.stdout.flush()

    if workers == 1:
        with keeping():
            for job in jobs:
                done(job, carry_out_job(job))
    else:
        run_jobs(partial(carry_out_job, quiet=True), jobs, workers, done)
    return failed


def _row(path: Path) -> Row | None:
    return row_of(read_json(path / "run.json")) if (path / "run.json").is_file() else None


def _claim(out_dir: Path, config_yaml: str) -> None:
    if out_dir.is_dir() and (out_dir / "run.json").is_file():
        raise DeltatuneError(f"--out_dir {out_dir} holds a run; choose another folder for the grid")
    write_text(out_dir / "config.yaml", config_yaml)


def _write(out_dir: Path, jobs: Sequence[Job], failed: Mapping[str, str]) -> None:
    """`grid.json` and `records.jsonl`: what the runs are and gave."""
    records, runs = [], []
    for job in jobs:
        row = _row(job.path)
        status = "failed" if job.path.name in failed else "finished" if row is not None else "missing"
        runs.append({"name": job.path.name, "status": status, "error": failed.get(job.path.name, "")})
        if row is not None and status == "finished":
            scores = {"dev": row.trial.dev, "test": row.trial.test, "train": row.trial.train}
            common = {**row.facts, "metric": row.metric, "trained": row.trained, "update_ms": row.update_ms}
            records += [
                {"kind": "run", "run": job.path.name, **common, "split": split, "value": value if value == value else None}
                for split, value in scores.items()
                if value is not None
            ]
    write_json(out_dir / "grid.json", {"command": f"{PROGRAM} grid", "versions": versions(), "runs": runs})
    write_text(out_dir / "records.jsonl", "")
    append_records(out_dir / "records.jsonl", records)


def _foretell(jobs: Sequence[Job]) -> None:
    table = Table("template", "methods", "runs", "to do", "learning rates")
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.plan.template, str(job.plan.combination)), []).append(job)
    for (template, methods), own in groups.items():
        left = sum(_row(job.path) is None for job in own)
        rates = dict.fromkeys(job.plan.config.train.optimizer.lr for job in own if job.plan.combination.stages)
        table.add_row(template, methods, str(len(own)), str(left), ", ".join(f"{rate:g}" for rate in rates if rate is not None))
    output().print(table)
    output().print(f"{len(jobs)} runs")
