"""`vote`: what several templates or models say together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.combos.commands.running import PROGRAM
from deltatune.combos.results import narrowed, rows_below
from deltatune.combos.vote import Spread
from deltatune.combos.voting import Reopened, electors, hold
from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.errors import DeltatuneError


def vote(
    runs: list[Path] | Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    voters: list[str] = ["model", "template", "methods"],  # noqa: B006 - never changed
    where: list[str] | str | None = None,
    device: Device = "auto",
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Let the runs of several templates, models or combinations vote: the mean of their logits, scored on dev and test.

    In each seed every voter is represented by its run with the best dev score. Printed are the scores of each voter alone and of
    all together, mean, standard deviation (n in the denominator) and median over seeds.

    Args:
        runs: folders of grids or runs, all of one task.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        voters: what tells voters apart: model, template, methods, rate, ....
        where: KEY=VALUE or a list of such, to count only some runs.
        device: where to compute.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    rows = rows_below([runs] if isinstance(runs, Path) else runs)
    given = [where] if isinstance(where, str) else list(where or ())
    rows = narrowed(rows, given) if given else rows
    unknown = [key for key in voters if key not in rows[0].facts]
    if unknown or not voters:
        raise DeltatuneError(f"--voters [{', '.join(voters)}]: give one or more of {', '.join(rows[0].facts)}")
    chosen = electors(rows, voters)
    settings: dict[str, Any] = {"voters": voters, "where": given}
    settings["runs"] = {seed: {name: [str(row.path), row.trial.dev] for name, row in own.items()} for seed, own in chosen.items()}

    def work() -> Found:
        reopened = Reopened(device)
        records = [{"kind": "vote", "seed": seed, **line} for seed, own in chosen.items() for line in hold(own, reopened)]
        return {"tried": len(rows), "scores": _spreads(records)}, records

    _show(Kept(out_dir, config_yaml, overwrite, tag, PROGRAM).once("vote", settings, work))


def _spreads(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, deviation and median over seeds, of each voter and split."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in records:
        groups.setdefault((row["voter"], row["split"]), []).append(row)
    return [
        {"voter": voter, "split": split, "metric": own[0]["metric"], "seeds": len(own)}
        | vars(Spread.of([row["value"] for row in own]))
        for (voter, split), own in groups.items()
    ]


def _show(facts: dict[str, Any]) -> None:
    table = Table("voter", "split", "metric", "mean", "deviation", "median", "seeds")
    for row in facts["scores"]:
        numbers = [f"{row[name]:.4f}" for name in ("mean", "deviation", "median")]
        table.add_row(row["voter"], row["split"], row["metric"], *numbers, str(row["seeds"]))
    output().print(table)
    output().print(f"chosen on dev among {facts['tried']} runs", soft_wrap=True)
