"""The runs of a grid carried out: several at a time, resumable, with a table at the end."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from deltatune.core.between_runs import keeping
from deltatune.core.cli.output import output
from deltatune.core.cli.parsing import parse
from deltatune.core.cli.runner import diagnose, load
from deltatune.core.cli.tune import tune
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held, read_json, write_json, write_text
from deltatune.core.grid import GridRun, Outcome, Spread, best_runs, summarise
from deltatune.core.pool import run_jobs
from deltatune.core.run import RunFolder, digest_of, read_records, versions
from deltatune.core.run_facts import require_unchanged
from deltatune.core.tune_config import TuneConfig

Keep = Literal["best", "last", "delta", "none"]
SUMMARY, RECORDS, OPTIONS = "grid.json", "records.jsonl", "config.yaml"


@dataclass(frozen=True)
class PlannedRun:
    """A run of a grid that is ready to go.

    Args:
        run: name, cell, seed.
        path: its folder.
        words: what `deltatune tune` takes.
        command: the whole command, as a shell takes it.
        config: the same as a configuration.
    """

    run: GridRun
    path: Path
    words: list[str]
    command: str
    config: TuneConfig


def finished(item: PlannedRun) -> dict[str, Any] | None:
    """What `run.json` says where this very run is finished."""
    return RunFolder(item.path, digest_of(item.config.identity())).finished()


def sweep(
    plan: Sequence[PlannedRun], out_dir: Path, about: Mapping[str, Any], config_yaml: str, workers: int, prune: bool
) -> int:
    """Carry out what is not finished, and print the table.

    Args:
        plan: every run of the grid.
        out_dir: folder of the grid.
        about: for `grid.json`: over, seeds, keep.
        config_yaml: the command's options.
        workers: runs at a time.
        prune: `keep` holds for finished runs as well that no earlier call of the grid made.

    Returns:
        The exit code: 2 where a run failed.

    Raises:
        DeltatuneError: `out_dir` holds something else, or another process carries out a grid in it.
    """
    _require_grid_folder(out_dir, {item.run.name for item in plan})
    with held(out_dir):
        state = _State(plan, out_dir, about, prune)
        write_text(out_dir / OPTIONS, re.sub(r"^overwrite: true$", "overwrite: false", config_yaml, flags=re.M))
        left = [item for item in plan if item.run.name not in state.outcomes]
        show = output().print
        show(f"{len(plan)} runs, {len(plan) - len(left)} of them finished", soft_wrap=True)
        began = time.perf_counter()

        def done(item: PlannedRun, error: str | None) -> None:
            outcome = state.take(item, "its process was killed, for want of memory perhaps" if error is None else error)
            number, minutes = len(state.made), (time.perf_counter() - began) / 60
            rest = minutes / number * (len(left) - number)
            show(f"[{number}/{len(left)}, {minutes:.1f} min, {rest:.1f} left] {item.run.name}: {_line(outcome)}", soft_wrap=True)

        if workers == 1:
            with keeping():
                for item in left:
                    done(item, carry_out(item))
        else:
            run_jobs(partial(carry_out, quiet=True), left, workers, done)
        state.write()
    state.show()
    return 2 if any(outcome.status == "failed" for outcome in state.outcomes.values()) else 0


def carry_out(item: PlannedRun, quiet: bool = False) -> str:
    """Tune; what went wrong in one line, else nothing. `quiet` shows no progress either."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        if quiet:
            stack.enter_context(redirect_stderr(io.StringIO()))
        try:
            tune(**parse(tune, "deltatune tune", item.words, [load("deltatune.core.delta:DeltaConfig")]))
        except Exception as error:  # whatever a run raises, the others go on
            return " ".join(diagnose(error)[0].split())
    return ""


def _require_grid_folder(out_dir: Path, names: set[str]) -> None:
    if out_dir.is_file():
        raise DeltatuneError(f"--out_dir {out_dir} is a file; choose a folder")
    if not out_dir.exists() or (out_dir / SUMMARY).exists():
        return
    strange = sorted(path.name for path in out_dir.iterdir() if path.name not in names and not path.name.startswith("."))
    if strange:
        raise DeltatuneError(f"--out_dir {out_dir} holds {strange[0]} and no grid; choose another folder")


class _State:
    """What is known of the runs, in memory and in the grid's files."""

    def __init__(self, plan: Sequence[PlannedRun], out_dir: Path, about: Mapping[str, Any], prune: bool) -> None:
        self.plan, self.out_dir, self.about = plan, out_dir, about
        self.outcomes: dict[str, Outcome] = {}
        self.records: dict[str, list[dict[str, Any]]] = {}
        self.made: list[str] = []
        known = read_json(out_dir / SUMMARY)["runs"] if (out_dir / SUMMARY).exists() else []
        self.ours = {run["name"] for run in known} | ({item.run.name for item in plan} if prune else set())
        for item in plan:
            if "--overwrite" not in item.words and (facts := finished(item)) is not None:
                self._finished(item, facts)
        self.write()

    def take(self, item: PlannedRun, error: str) -> Outcome:
        """A run has ended."""
        self.made.append(item.run.name)
        self.ours.add(item.run.name)
        facts = finished(item) if not error else None
        if facts is not None:
            self._finished(item, facts)
        else:
            self.outcomes[item.run.name] = Outcome(item.run, "failed", error or "it left no finished run.json")
        self.write()
        return self.outcomes[item.run.name]

    def _finished(self, item: PlannedRun, facts: dict[str, Any]) -> None:
        own = {"run": item.run.name, "cell": item.run.cell, "seed": item.run.seed}
        try:
            require_unchanged(item.config, item.path, facts)
            found = [{**own, **record} for record in read_records(item.path) if record["kind"] == "result"]
        except DeltatuneError as error:
            self.outcomes[item.run.name] = Outcome(item.run, "failed", str(error))
            return
        self.records[item.run.name] = found
        self.outcomes[item.run.name] = Outcome(item.run, "finished", facts=facts)

    def ordered(self) -> list[Outcome]:
        """One outcome for each run of the plan, in its order."""
        return [self.outcomes.get(item.run.name, Outcome(item.run, "missing")) for item in self.plan]

    def write(self) -> None:
        """Bring the grid's files up to date, and remove the weights that are not kept."""
        outcomes = self.ordered()
        runs = [
            {
                **asdict(outcome.run),
                "status": outcome.status,
                **({"error": outcome.error} if outcome.error else {}),
                **{split: outcome.value(split) for split in ("dev", "test")},
                "seconds": outcome.facts.get("seconds"),
                "command": item.command,
            }
            for item, outcome in zip(self.plan, outcomes, strict=True)
        ]
        cells = [asdict(summary) for summary in summarise(outcomes)]
        write_json(
            self.out_dir / SUMMARY,
            {"command": "deltatune grid", **self.about, "versions": versions(), "cells": cells, "runs": runs},
        )
        lines = (json.dumps(record, ensure_ascii=False) for item in self.plan for record in self.records.get(item.run.name, ()))
        write_text(self.out_dir / RECORDS, "".join(line + "\n" for line in lines))
        if self.about["keep"] in ("best", "none"):
            self._prune(outcomes)

    def _prune(self, outcomes: Sequence[Outcome]) -> None:
        best = best_runs(outcomes) if self.about["keep"] == "best" else set()
        for item, outcome in zip(self.plan, outcomes, strict=True):
            judged = self.about["keep"] == "none" or outcome.value("dev") is not None
            if outcome.status == "finished" and judged and item.run.name in self.ours - best:
                for name in ("delta", "snapshots"):
                    shutil.rmtree(item.path / name, ignore_errors=True)

    def show(self) -> None:
        """Print the table, what it does not show, and what failed."""
        outcomes, console = self.ordered(), output()
        table = Table("", "cell", "metric", "runs", "dev", "test")
        for cell in summarise(outcomes):
            number = str(cell.runs) if cell.finished == cell.runs else f"{cell.finished} of {cell.runs}"
            mark = "*" if cell.best else ""
            table.add_row(mark, cell.cell, cell.metric, number, _spread(cell.dev), _spread(cell.test))
        console.print(table)
        console.print("* the best mean on dev: choose by dev, report test. Mean ± standard deviation over seeds.", soft_wrap=True)
        for note in dict.fromkeys(str(note) for outcome in outcomes for note in outcome.facts.get("notes", ())):
            console.print(f"note: {note}", soft_wrap=True)
        if any(_chosen_on_test(outcome.facts) for outcome in outcomes):
            console.print(
                "note: dev and test are the same examples, so the marked cell was chosen by its test score", soft_wrap=True
            )
        for item in self.plan:
            outcome = self.outcomes.get(item.run.name)
            if outcome is not None and outcome.status == "failed":
                console.print(f"failed: {item.run.name}: {outcome.error}", soft_wrap=True)
        console.print(f"records in {self.out_dir / RECORDS}", soft_wrap=True)


def _chosen_on_test(facts: Mapping[str, Any]) -> bool:
    whole = facts.get("config", {}).get("task", {}).get("shots") is None
    return whole and any("the development examples serve as test" in note for note in facts.get("notes", ()))


def _spread(found: Spread | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.4f}" + ("" if found.deviation is None else f" ± {found.deviation:.4f}")


def _line(outcome: Outcome) -> str:
    if outcome.status == "failed":
        return f"failed: {outcome.error}"
    return ", ".join(f"{split} {value:.4f}" for split in ("dev", "test") if (value := outcome.value(split)) is not None)
