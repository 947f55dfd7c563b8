"""The report of subspace optimization: tables like the published ones, with intervals, controls and absolute scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from deltatune.core.metrics import higher_is_better
from deltatune.subspace.relative import at_chance, bootstrap, paired, table

Record = Mapping[str, Any]
_KINDS = (
    "optimization", "transfer", "head optimization", "head transfer", "random optimization", "random transfer", "zero", "mean",
)  # fmt: skip
_WORDS = {
    "optimization": "optimization",
    "transfer": "transfer",
    "head optimization": "control: the head of the optimized solution, the delta at its initial values",
    "head transfer": "control: the head of the transferred solution, the delta at its initial values",
    "random optimization": "control: optimization in random decoders",
    "random transfer": "control: transfer in random decoders",
    "zero": "control: the initial values",
    "mean": "control: the mean source point",
}


def report_text(records: Sequence[Record], split: str) -> str:
    """The whole report as Markdown."""
    measured = any(record["relative"] is not None for record in records)
    parts = ["# Unified optimization subspace", _legend(split, len({record["result"] for record in records}))]
    parts += ["## Optimization", _by_target(records, "optimization", "relative" if measured else "value")]
    parts += ["## Transfer", _by_pair(records, "relative" if measured else "value")]
    parts += ["## Means with 95% intervals", _intervals(records)]
    if measured:
        parts += ["## What transfer costs", _gap(records)]
    parts += ["## Absolute scores", _absolute(records)]
    if cells := list(_chance_cells(records)):
        parts += ["## Cells at chance or below", "\n".join(f"- {cell}" for cell in cells) + "\n"]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _legend(split: str, results: int) -> str:
    return (
        f"Scores on {split} of {results} result{'s' if results > 1 else ''}. Relative performance is in percent of the score of "
        "the target delta's original solution; a guess has one too, so the corrected one counts from chance, the "
        "best score of one constant answer. Intervals: bootstrap over tasks and the seeds of each."
    )


def _tasks(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["task"] for record in records))


def _mean(records: Sequence[Record], name: str) -> float | None:
    known = [record[name] for record in records if record[name] is not None]
    if not known:
        return None
    return fmean(known) * (100 if name in ("value", "original", "chance") else 1)


def _by_target(records: Sequence[Record], kind: str, name: str) -> str:
    own = [record for record in records if record["kind"] == kind]
    targets = list(dict.fromkeys(record["target"] for record in own))
    return table(
        _tasks(own), targets, lambda task, target: _mean([r for r in own if (r["task"], r["target"]) == (task, target)], name)
    )


def _by_pair(records: Sequence[Record], name: str) -> str:
    own = [record for record in records if record["kind"] == "transfer"]
    pairs = list(dict.fromkeys(f"{record['source']} to {record['target']}" for record in own))

    def cell(task: str, pair: str) -> float | None:
        return _mean([r for r in own if r["task"] == task and f"{r['source']} to {r['target']}" == pair], name)

    return table(_tasks(own), pairs, cell) if own else "No other target than the source.\n"


def _cells(records: Sequence[Record], name: str) -> dict[tuple[str, Any], float]:
    """(task, result) -> mean over sources and targets."""
    found: dict[tuple[str, Any], list[float]] = {}
    for record in records:
        if record[name] is not None:
            found.setdefault((record["task"], record["result"]), []).append(record[name])
    return {key: fmean(values) for key, values in found.items()}


def _intervals(records: Sequence[Record]) -> str:
    lines = ["| | relative % | corrected % | score |", "|---|---|---|---|"]
    for kind in _KINDS:
        own = [record for record in records if record["kind"] == kind]
        if not own:
            continue
        cells = []
        for name in ("relative", "corrected", "value"):
            values = _cells(own, name)
            scaled = {key: 100 * value for key, value in values.items()} if name == "value" else values
            cells.append(bootstrap(scaled).text() if values else "")
        lines.append(f"| {_WORDS[kind]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _gap(records: Sequence[Record]) -> str:
    """Paired on task, result and target: optimization of the target minus transfer into it."""
    known = [record for record in records if record["kind"] == "optimization" and record["relative"] is not None]
    direct = {(r["task"], r["result"], r["target"]): r["relative"] for r in known}
    found: dict[tuple[str, Any], list[float]] = {}
    for record in records:
        key = (record["task"], record["result"], record["target"])
        if record["kind"] == "transfer" and record["relative"] is not None and key in direct:
            gap = paired(direct, {key: record["relative"]})[key]
            found.setdefault((record["task"], record["result"]), []).append(gap)
    if not found:
        return "Nothing to pair.\n"
    spread = bootstrap({key: fmean(values) for key, values in found.items()})
    return f"Optimization minus transfer, on the same task and target: {spread.text()} points.\n"


def _absolute(records: Sequence[Record]) -> str:
    lines = ["| task | kind | source | target | score % | original % | chance % |", "|---|---|---|---|---|---|---|"]
    keys = dict.fromkeys((r["task"], r["kind"], r["source"] or "", r["target"]) for r in records)
    for key in keys:
        own = [r for r in records if (r["task"], r["kind"], r["source"] or "", r["target"]) == key]
        numbers = [_mean(own, name) for name in ("value", "original", "chance")]
        lines.append(f"| {' | '.join(key)} | {' | '.join('' if n is None else f'{n:.1f}' for n in numbers)} |")
    return "\n".join(lines) + "\n"


def _chance_cells(records: Sequence[Record]) -> Iterator[str]:
    """Which optimized or transferred solutions are no better than a guess, or cannot be told from one."""
    for record in records:
        share = record["stderr"] is not None and higher_is_better(record["metric"])
        if record["kind"] in ("optimization", "transfer") and record["value"] is not None and share:
            value, level = record["value"], record["chance"]
            if at_chance(value, level, record["n"]):
                where = f"{record['task']}: {record['source']} to {record['target']}"
                ratio = "" if record["relative"] is None else f", relative {record['relative']:.1f}%"
                yield f"{where}: {100 * value:.1f} beside chance {100 * level:.1f}{ratio}"
