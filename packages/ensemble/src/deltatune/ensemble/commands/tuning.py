"""`tune-all`: the deltas of a list of tasks from one start, or every source tuned on every target."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from deltatune.core.between_runs import keeping
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import tuning
from deltatune.core.delta import Head
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held, read_json, write_text
from deltatune.core.method import Method
from deltatune.core.pool import run_jobs, threads_for
from deltatune.core.reuse import open_run
from deltatune.core.run import append_records, plain
from deltatune.core.tune_config import TuneConfig
from deltatune.core.tuning import tune_to
from deltatune.ensemble.commands.results import PROGRAM
from deltatune.ensemble.methods import CommonStart, ScoredStart
from deltatune.ensemble.sources import folders, is_peft
from deltatune.ensemble.taxonomy import named

SUMMARY = "summary.jsonl"


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        target: short name.
        source: name; None where the delta begins afresh.
        config: of the run.
        path: its folder.
        yaml: its options.
        tag: of its records.
        overwrite: throw away a run that is there.
    """

    target: str
    source: str | None
    config: TuneConfig
    path: Path
    yaml: str
    tag: str
    overwrite: bool

    @property
    def name(self) -> str:
        """For messages."""
        return self.target if self.source is None else f"{self.target} from {self.source}"

    @property
    def method(self) -> Method:
        """What is done at its start."""
        return CommonStart(self.config.init_seed) if self.source is None else ScoredStart()


@sharing(tuning, without=("task", "start"), optional=True)
def tune_all(
    tasks: list[str],
    out_dir: Path,
    config_yaml: SavedConfig,
    sources: Path | None = None,
    workers: int = 1,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> int:
    """Tune a delta on each of several tasks, all from equal initial values; or each of several sources on each of the tasks.

    Without --sources the runs are OUT_DIR/TASK: sources for other targets, or (with --shots) references tuned on the targets.
    With --sources they are OUT_DIR/TASK/SOURCE, and their scores before training are the zero-shot scores. A run that fails is
    reported and the others go on; the same command again goes on where it stopped, and a longer list adds runs.

    Args:
        tasks: names or YAML files; '[qa]' for the paper's 32 tasks.
        out_dir: folder of the runs; summary.jsonl in it has a line for each, result.tsv the published form.
        config_yaml: filled in by the program.
        sources: folder of deltas to start from; they decide model and delta.
        workers: runs at a time, each in a process with its share of the cores.
        tag: a word of yours that goes into the records.
        overwrite: throw away runs that are there.
    """
    jobs = list(_fresh(named(tasks), out_dir, options) if sources is None else _pairs(named(tasks), sources, out_dir, options))
    given = yaml.safe_load(config_yaml)
    jobs = [replace(job, yaml=_own_yaml(job, given), tag=tag, overwrite=overwrite) for job in jobs]
    threads_for(workers)
    out_dir.mkdir(parents=True, exist_ok=True)
    errors: dict[str, str] = {}
    with held(out_dir):
        write_text(out_dir / "config.yaml", config_yaml.replace("\noverwrite: true\n", "\noverwrite: false\n"))

        def done(job: Job, error: str | None) -> None:
            errors[job.name] = "its process was killed, for want of memory perhaps" if error is None else error
            output(error=True).print(f"[{len(errors)}/{len(jobs)}] {job.name}: {errors[job.name] or 'finished'}", soft_wrap=True)

        if workers == 1:
            with keeping():
                for job in jobs:
                    done(job, carry_out(job))
        else:
            run_jobs(carry_out, jobs, workers, done)
        _summarise(jobs, out_dir)
    failed = [f"{name}: {error}" for name, error in errors.items() if error]
    for line in failed:
        output().print(f"failed: {line}", soft_wrap=True)
    return 2 if failed else 0


def carry_out(job: Job) -> str:
    """Tune; what went wrong in one line, else nothing."""
    try:
        tune_to(
            job.config, job.path, {"command": f"{PROGRAM} tune-all", "tag": job.tag}, job.yaml, job.overwrite, None, job.method
        )
    except (DeltatuneError, OSError) as error:
        return " ".join(str(error).split())
    return ""


def _fresh(tasks: Mapping[str, str], out_dir: Path, options: Mapping[str, Any]) -> list[Job]:
    for name in ("model", "delta"):
        if options.get(name) is None:
            raise DeltatuneError(f"--{name} is needed without --sources; give it as `deltatune tune` takes it")
    return [Job(name, None, tuning(**options, task=task), out_dir / name, "", "", False) for name, task in tasks.items()]


def _pairs(tasks: Mapping[str, str], sources: Path, out_dir: Path, options: Mapping[str, Any]) -> list[Job]:
    if options.get("delta") is not None or options.get("also"):
        raise DeltatuneError("--delta does not go with --sources, whose deltas are tuned on; leave it out")
    found = []
    for name, task in tasks.items():
        for path in folders(sources):
            if is_peft(path):
                raise DeltatuneError(f"--sources: {path} is an adapter of PEFT; run `deltatune import --adapter {path}` first")
            found.append(Job(name, path.name, _from_source(path, task, options), out_dir / name / path.name, "", "", False))
    return found


def _from_source(path: Path, task: str, options: Mapping[str, Any]) -> TuneConfig:
    opened = open_run(path)
    kinds = tuple(config for config in opened.saved.configs if not isinstance(config, Head)) or opened.saved.configs
    before = opened.settings.get("backbone") or {}
    given = {**options, "model": options.get("model") or before.get("model") or opened.saved.base["name"], "task": task}
    if given.get("form", "auto") == "auto":
        given["form"] = opened.saved.base.get("form") or "auto"
    config = tuning(**{**given, "delta": kinds[0]}, start=path)
    return replace(config, deltas=kinds)


def _own_yaml(job: Job, given: Mapping[str, Any]) -> str:
    """The options of `deltatune-ensemble tune` that tune the same task from the same place."""
    known = {name: given[name] for name in inspect.signature(tuning).parameters if name in given}
    first = job.config.deltas[0].describe()
    delta = {"class_path": first.pop("kind"), "init_args": plain(first)}
    own = {
        **known,
        "model": job.config.backbone.model,
        "task": job.config.task.task,
        "delta": delta,
        "form": job.config.backbone.form,
    }
    start = job.config.start.as_posix() if job.config.start else None
    return yaml.safe_dump({**own, "start": start, "out_dir": job.path.as_posix(), "tag": job.tag}, sort_keys=False)


def _summarise(jobs: list[Job], out_dir: Path) -> None:
    """The table of all finished runs of this call, and the files of it."""
    table = Table("target", *(["source"] if jobs[0].source is not None else []), "metric", "dev before", "dev", "test")
    records: list[dict[str, Any]] = []
    lines: list[str] = []
    for job in jobs:
        facts = read_json(job.path / "run.json") if (job.path / "run.json").is_file() else {}
        if facts.get("status") != "finished":
            continue
        scores = facts["scores"]
        before = facts.get("before", {}).get("dev", {}).get("value")
        dev, test = (scores.get(split, {}).get("value") for split in ("dev", "test"))
        metric = next((found["metric"] for found in scores.values()), "")
        records.append({"kind": "tuned", "target": job.target, "source": job.source, "metric": metric, "before": before}
                       | {"dev": dev, "test": test, "run": job.path.as_posix(), "tag": job.tag})  # fmt: skip
        table.add_row(job.target, *([job.source] if job.source is not None else []), metric, *map(_shown, (before, dev, test)))
        if job.source is not None and (not lines or job.target not in lines):
            lines.append(job.target)
        lines.append(f"{job.source or job.target},{dev},{test}")
    (out_dir / SUMMARY).unlink(missing_ok=True)
    append_records(out_dir / SUMMARY, records)
    write_text(out_dir / "result.tsv", "".join(line + "\n" for line in lines))
    output().print(table)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
