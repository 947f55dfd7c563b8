"""One `reproduce` from the request to its files."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltatune.core.claims.claim import Claim
from deltatune.core.claims.figures import draw
from deltatune.core.claims.installed import load_claims, select
from deltatune.core.claims.outcome import outcome
from deltatune.core.claims.publish import write_claims, write_report
from deltatune.core.claims.running import Done, Report, Unit, run_units
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held
from deltatune.core.pool import cores, threads_for
from deltatune.core.run import RunFolder, digest_of, versions


@dataclass(frozen=True)
class Request:
    """What is to be checked.

    Args:
        modules: where the claims of each paper are (see `installed.sources`).
        every: all claims, not only the headlines.
        only: ids, or paper and id; if any are given, these alone.
        seeds: how many of each claim; None for what each declares.
        seed_offset: the first.
    """

    modules: Mapping[str, str]
    every: bool = False
    only: tuple[str, ...] = ()
    seeds: int | None = None
    seed_offset: int = 0

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise DeltatuneError(f"--seeds must be at least 1, got {self.seeds}")
        if self.seed_offset < 0:
            raise DeltatuneError(f"--seed_offset must be at least 0, got {self.seed_offset}")

    def digest(self) -> str:
        """Equal for requests that must give equal findings."""
        wanted = {"papers": list(self.modules), "every": self.every, "only": list(self.only), "seeds": self.seeds}
        return digest_of({**wanted, "seed_offset": self.seed_offset, "versions": versions()})

    def seeds_of(self, claim: Claim) -> list[int]:
        """The seeds that `claim` is run with; an exact claim has one."""
        number = 1 if claim.exact else self.seeds or claim.seeds
        return list(range(self.seed_offset, self.seed_offset + number))


@dataclass(frozen=True)
class Plan:
    """What a request comes to.

    Args:
        request: as asked.
        claims: of all papers, in the order of the report.
        units: to be measured.
        without: papers that have no claims.
    """

    request: Request
    claims: tuple[Claim, ...]
    units: tuple[Unit, ...]
    without: tuple[str, ...]


def plan(request: Request) -> Plan:
    """Load the claims and choose.

    Raises:
        DeltatuneError: `only` names a claim that is not there.
    """
    found = {paper: load_claims(paper, module) for paper, module in request.modules.items()}
    claims = [claim for of_paper in found.values() for claim in of_paper]
    chosen = select(claims, request.every, request.only)
    # The long ones first: no core is left with one at the end, and what claims share is there when the short ones ask for it.
    longest = sorted(chosen, key=lambda claim: -claim.cost)
    units = [Unit(claim, request.modules[claim.paper], seed) for claim in longest for seed in request.seeds_of(claim)]
    shown = chosen if request.only else claims
    return Plan(request, tuple(shown), tuple(units), tuple(paper for paper, has in found.items() if not has))


def carry_out(
    planned: Plan, out_dir: Path, workers: int | None, about: Mapping[str, Any], config_yaml: str, report: Report
) -> list[dict[str, Any]]:
    """Measure, judge, draw and write.

    Args:
        planned: what.
        out_dir: the folder of the results; one that holds an unfinished run of the same request is gone on with.
        workers: processes; None for one to each core.
        about: added to run.json.
        config_yaml: the command's options.
        report: called with each unit as it ends.

    Returns:
        The objects of `claims.json`.

    Raises:
        DeltatuneError: no worker or more of them than cores; something else is in the folder, or it cannot be written.
    """
    if workers is not None:
        threads_for(workers)
    folder = RunFolder(out_dir, planned.request.digest())
    processes = min(workers or cores(), max(1, len(planned.units)))
    facts = {**about, "device": f"{platform.machine()}, {cores()} cores", "workers": processes}
    with held(out_dir):
        folder.begin(facts, config_yaml)
        started = time.perf_counter()
        done = run_units(planned.units, out_dir / "store", processes, report)
        claims = _outcomes(planned, done, out_dir)
        write_claims(out_dir, claims)
        facts["seconds"] = round(time.perf_counter() - started, 3)
        facts["finished"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        folder.finish(facts, list(_lines(done)))
        write_report(out_dir, claims, {**facts, "versions": versions()})
    return claims


def _outcomes(planned: Plan, done: Sequence[Done], out_dir: Path) -> list[dict[str, Any]]:
    claims = []
    for claim in planned.claims:
        seeds = [unit.seed for unit in planned.units if unit.claim is claim]
        own = [unit for unit in done if unit.unit.claim is claim]
        claims.append({**outcome(claim, seeds, own), "figures": draw(claim, list(_records(own)), out_dir)})
    return claims


def _records(done: Sequence[Done]) -> list[dict[str, Any]]:
    """What the seeds recorded, in the order of the seeds."""
    ordered = sorted((unit for unit in done if unit.measured), key=lambda unit: unit.unit.seed)
    return [{"seed": unit.unit.seed, **record} for unit in ordered for record in (unit.measured or {})["records"]]


def _lines(done: Sequence[Done]) -> list[dict[str, Any]]:
    """The lines of records.jsonl: what each claim measured with each seed, and what it recorded beside."""
    lines = []
    for unit in sorted(done, key=lambda unit: (unit.unit.claim.name, unit.unit.seed)):
        if unit.measured is not None:
            common = {"claim": unit.unit.claim.name, "seed": unit.unit.seed}
            effects = {key: unit.measured[key] for key in ("effect", "controls", "gates", "seconds")}
            lines += [{"kind": "effects", **common, **effects}]
            lines += [{"kind": "record", **common, "record": record} for record in unit.measured["records"]]
    return lines
