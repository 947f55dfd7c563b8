"""`deltatune grid`: the runs that a few lists of settings make, and what they say together."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from deltatune.core.cli.output import output
from deltatune.core.cli.parsing import parse
from deltatune.core.cli.runner import SavedConfig, load
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.sweep import Keep, PlannedRun, finished, sweep
from deltatune.core.cli.tune import tune, tuning
from deltatune.core.cli.words import changed_options, words_of
from deltatune.core.delta import Full, Modules
from deltatune.core.errors import DeltatuneError
from deltatune.core.estimate import Estimate, estimate
from deltatune.core.grid import GridRun, expand
from deltatune.core.pool import threads_for
from deltatune.core.run import digest_of
from deltatune.core.tune_config import TuneConfig
from deltatune.core.tuning import prepare

SEEDED = ("init_seed", "data_seed")
_NOT_VARIED = ("out_dir", "overwrite", "config", "log_with", "tag")


@sharing(tune, optional=True)
def grid(
    out_dir: Path,
    config_yaml: SavedConfig,
    over: dict[str, list[Any]] | list[dict[str, list[Any]]] | None = None,
    seeds: int | list[int] | None = None,
    keep: Keep | None = None,
    workers: int = 1,
    dry_run: bool = False,
    print: bool = False,
    **options: Any,
) -> int:
    """Tune with every combination of the values in --over, several seeds each, and compare them.

    Takes the options of `tune`; those named in --over take a list. Each run is an ordinary run folder in OUT_DIR, so the
    command given again goes on where it stopped, and a longer list adds runs. A run that fails is reported and the others go
    on. The table shows mean and standard deviation over seeds and marks the cell that is best on dev; report its test score.
    OUT_DIR also holds grid.json, records.jsonl and config.yaml.

    Args:
        out_dir: folder of the grid.
        config_yaml: filled in by the program.
        over: option -> list of its values, such as {train.optimizer.lr: [1e-4, 3e-4], delta.rank: [4, 8]}; a list of such
            mappings makes several grids in one.
        seeds: how many repetitions (3 means seeds 0, 1 and 2), or a list of seeds; a seed sets init_seed and data_seed, and
            sample_seed where --shots draws the examples. By default one run of each cell, with the seeds of the options.
        keep: which weights stay: delta those selected in each run; last those of each run's last update, which are then the
            ones that are scored; best the delta of one run of each task, the best on dev; none only run.json and records. By
            default delta, and best where a delta is as large as the model (Full, Modules).
        workers: runs at a time, each in a process with its share of the cores.
        dry_run: only print how many runs, hours and gigabytes it will take, measured on a few updates of each kind of run.
        print: only print each run as a command, for other machines; the same grid then finds the finished ones.
    """
    given = yaml.safe_load(config_yaml)
    runs = _expand(over, seeds, given, keep)
    plan = [_plan(run, given, out_dir, keep) for run in runs]
    kept: Keep = keep or ("best" if any(isinstance(d, (Full, Modules)) for item in plan for d in item.config.deltas) else "delta")
    threads = threads_for(workers)
    if print:
        sys.stdout.write("".join(f"{item.command}\n" for item in plan))
        return 0
    if dry_run:
        _foretell(plan, kept, workers, threads)
        return 0
    return sweep(plan, out_dir, {"over": over or {}, "seeds": seeds, "keep": kept}, config_yaml, workers, prune=keep is not None)


def _expand(over: Any, seeds: int | list[int] | None, given: Mapping[str, Any], keep: Keep | None) -> list[GridRun]:
    parts = over if isinstance(over, list) else [over or {}]
    varied = {option for part in parts for option in part}
    for option in _NOT_VARIED:
        if option in varied:
            raise DeltatuneError(f"--over cannot vary {option}; it belongs to the whole grid")
    if keep == "last" and "train.select" in varied:
        raise DeltatuneError("--keep last sets train.select, which --over varies; give one of them")
    if isinstance(seeds, int) and seeds < 1:
        raise DeltatuneError(f"--seeds must be at least 1, or a list such as [13, 21], got {seeds}")
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds or ())
    sampled = given.get("shots") is not None or "shots" in varied
    return expand(parts, numbers, (*SEEDED, "sample_seed") if sampled else SEEDED)


def _plan(run: GridRun, given: Mapping[str, Any], out_dir: Path, keep: Keep | None) -> PlannedRun:
    """The run as words and as a configuration, checked as `tune` checks them."""
    settings = {**run.settings, **({"train.select": "last"} if keep == "last" else {})}
    base = changed_options(tune, {name: value for name, value in given.items() if name != "out_dir"})
    kept = {
        option: value
        for option, value in base.items()
        if not any(option == name or option.startswith(f"{name}.") for name in settings)
    }
    # A choice such as `delta` comes before the settings of what is chosen.
    options = {**kept, **{name: settings[name] for name in sorted(settings, key=lambda name: name.count("."))}}
    path = out_dir / run.name
    words = words_of({**options, "out_dir": path.as_posix()})
    arguments = parse(tune, "deltatune tune", words, [load("deltatune.core.delta:DeltaConfig")])
    config = tuning(**{name: arguments[name] for name in inspect.signature(tuning).parameters})
    return PlannedRun(run, path, words, shlex.join(["deltatune", "tune", *words]), config)


@dataclass
class _Kind:
    """Runs that take equally long."""

    example: PlannedRun
    runs: int = 0
    left: int = 0
    found: Estimate | None = None


def _foretell(plan: Sequence[PlannedRun], keep: Keep, workers: int, threads: int) -> None:
    kinds: dict[str, _Kind] = {}
    for item in plan:
        kind = kinds.setdefault(_kind(item.config), _Kind(item))
        kind.runs += 1
        kind.left += finished(item) is None
    prepare(plan[0].config)  # what is loaded once in a process, or cached, is not counted for each run
    table = Table("runs like", "runs", "to do", "updates", "minutes each", "megabytes each")
    for kind in kinds.values():
        found = kind.found = estimate(kind.example.config, threads)
        size = (1 + found.snapshots) * found.delta_bytes / 1e6
        table.add_row(
            kind.example.run.name, str(kind.runs), str(kind.left), str(found.updates), f"{found.seconds / 60:.2g}", f"{size:.2g}"
        )
    output().print(table)
    measured = [(kind, kind.found) for kind in kinds.values() if kind.found is not None]
    hours = sum(kind.left * found.seconds for kind, found in measured) / workers / 3600
    sizes = [(kind, (1 + found.snapshots) * found.delta_bytes) for kind, found in measured]
    tasks: dict[str, int] = {}
    for kind, size in sizes:
        task = kind.example.config.task.task
        tasks[task] = max(tasks.get(task, 0), size)
    stays = {"none": 0, "best": sum(tasks.values())}.get(keep, sum(kind.runs * size for kind, size in sizes))
    besides = workers * max(found.state_bytes + (1 + found.snapshots) * found.delta_bytes for _, found in measured)
    shared = f" with {workers} workers of {threads} threads" if workers > 1 else ""
    output().print(
        f"{len(plan)} runs, {sum(kind.left for kind in kinds.values())} to do: about {hours:.2g} hours{shared}; "
        f"{stays / 1e9:.2g} gigabytes stay (--keep {keep}), up to {besides / 1e9:.2g} more while it runs",
        soft_wrap=True,
    )


def _kind(config: TuneConfig) -> str:
    """Equal for runs that differ in seeds and learning rate alone."""
    rate = replace(config.train.optimizer, lr=None)
    train = replace(config.train, data_seed=0, dropout_seed=0, optimizer=rate)
    return digest_of(replace(config, init_seed=0, train=train, task=replace(config.task, sample_seed=0)).identity())
