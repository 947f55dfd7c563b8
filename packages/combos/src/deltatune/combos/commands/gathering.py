"""`gather`: what the runs of grids say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from deltatune.combos.commands.figures import draw, draw_sequence
from deltatune.combos.gathering import Chosen, Rule
from deltatune.combos.results import Cell, Row, cells, chosen_of, columns_of, gap_cell, markdown, narrowed, rows_below, score_cell
from deltatune.core.cli.output import output
from deltatune.core.cli.results import Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.data import short_name
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import write_text
from deltatune.core.run import read_records

RULES: Mapping[Rule, str] = {
    "per_seed": "in each seed the run with the best dev score",
    "mean_dev": "the learning rate with the best mean dev score",
    "test": "the learning rate with the best mean TEST score, as published: it looks at what it reports",
}


def gather(
    runs: list[Path] | Path,
    config_yaml: SavedConfig,
    where: list[str] | str | None = None,
    select: Rule = "per_seed",
    as_published: bool = False,
    out_dir: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Choose among the runs of grids, and print the tables: score, generalization gap, time of an update.

    With --out_dir the tables are also written, as Markdown, with figures: scores, gaps, and of sequences the dev score over all
    updates, a line for each order.

    Args:
        runs: folders of grids or runs.
        config_yaml: filled in by the program.
        where: KEY=VALUE or a list of such, to count only some runs: task, template, methods, seed, rate, tag, ....
        select: per_seed takes in each seed the best run on dev; mean_dev the learning rate that is best on dev over all seeds;
            test the one that is best on test, as the published tables did.
        as_published: --select test, with how much it differs from the choice on dev.
        out_dir: where to keep the tables.
        overwrite: throw away tables that are there.
    """
    rule: Rule = "test" if as_published else select
    given = [where] if isinstance(where, str) else list(where or ())
    rows = rows_below([runs] if isinstance(runs, Path) else runs)
    rows = narrowed(rows, given) if given else rows
    show(rows, rule)
    if rule == "test":
        _show_difference(rows)
    if out_dir is not None:
        kept = Kept(out_dir, config_yaml, overwrite, program="deltatune-combos")
        settings = {"where": given, "select": rule, "runs": [_plain(row) for row in rows]}
        kept.once("gather", settings, lambda: _keep(rows, rule, out_dir))


def show(rows: Sequence[Row], rule: Rule) -> None:
    """Print the tables of some runs."""
    chosen, console = chosen_of(rows, rule), output()
    if not chosen:
        raise DeltatuneError("no run to show")
    metrics = ", ".join(dict.fromkeys(f"{short_name(row.facts['task'])} {row.metric}" for row in rows))
    reported = "test" if any(row.trial.test is not None for row in rows) else "dev"
    console.print(
        f"chosen: {RULES[rule]}; mean ± standard deviation (n in the denominator) of {reported}, in percent: {metrics}",
        soft_wrap=True,
    )
    console.print(_table(chosen, score_cell, f"{reported} score"))
    if any(one.gap is not None for one in chosen.values()):
        console.print(_table(chosen, gap_cell, f"train - {reported}"))
    console.print(_times(rows, chosen))
    for (task, template, methods), one in chosen.items():
        if one.border is not None:
            where = f"{short_name(task)}, {template}, {methods}"
            console.print(f"note: {where}: the {one.border} rate that was tried was chosen; widen --rates", soft_wrap=True)


def _table(chosen: Mapping[tuple[str, str, str], Chosen], cell: Cell, title: str) -> Table:
    table = Table("task", "template", *columns_of(chosen), title=title)
    for task, template, values in cells(chosen, cell):
        table.add_row(task, template, *("" if v is None else f"{100 * v[0]:.1f} ± {100 * v[1]:.1f}" for v in values))
    return table


def _times(rows: Sequence[Row], chosen: Mapping[tuple[str, str, str], Chosen]) -> Table:
    table = Table("methods", "runs", "trained numbers", "milliseconds an update", title="cost")
    for methods in columns_of(chosen):
        own = [row for row in rows if row.facts["methods"] == methods]
        times = sorted(row.update_ms for row in own if row.update_ms is not None)
        middle = f"{times[len(times) // 2]:.1f}" if times else ""
        table.add_row(methods, str(len(own)), ", ".join(f"{n:,}" for n in sorted({row.trained for row in own})), middle)
    return table


def _show_difference(rows: Sequence[Row]) -> None:
    """What choosing by test gives over choosing by dev, for each combination."""
    by = {rule: chosen_of(rows, rule) for rule in ("test", "mean_dev")}
    table = Table(
        "template", "methods", "by test", "by dev", "difference", title="average over tasks, by what the rate was chosen"
    )
    templates = dict.fromkeys(template for _, template, _ in by["test"])
    for template, methods in product(templates, columns_of(by["test"])):
        places = [place for place in by["test"] if place[1:] == (template, methods)]
        if not places:
            continue
        test, dev = (100 * sum(by[rule][place].mean for place in places) / len(places) for rule in by)
        table.add_row(template, methods, f"{test:.1f}", f"{dev:.1f}", f"{test - dev:+.1f}")
    output().print(table)


def _keep(rows: Sequence[Row], rule: Rule, out_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    chosen = chosen_of(rows, rule)
    columns = columns_of(chosen)
    for name, cell, best in (("scores", score_cell, True), ("gaps", gap_cell, False)):
        write_text(out_dir / f"{name}.md", markdown(cells(chosen, cell), columns, best))
    draw(chosen, out_dir / "scores.png")
    if any(one.gap is not None for one in chosen.values()):
        draw(chosen, out_dir / "gaps.png", gap_cell, "training minus reported score (points)")
    draw_orders(rows, chosen, out_dir)
    records = [
        {
            "kind": "chosen",
            **dict(zip(("task", "template", "methods"), place, strict=True)),
            "mean": one.mean,
            "deviation": one.deviation,
            "gap": None if one.gap is None else one.gap[0],
            "seeds": len(one.trials),
            "tried": one.tried,
            "rates": list(one.rates),
        }
        for place, one in chosen.items()
    ]
    return {"select": rule, "runs": len(rows)}, records


def draw_orders(rows: Sequence[Row], chosen: Mapping[tuple[str, str, str], Chosen], out_dir: Path) -> None:
    """Of each task and template that sequences were run on, a figure: mean dev score over the chosen runs of each order."""
    sequences = [place for place in chosen if ">" in place[2]]
    for number, (task, template) in enumerate(dict.fromkeys(place[:2] for place in sequences), start=1):
        curves: dict[str, list[tuple[int, float]]] = {}
        ends: set[int] = set()
        for place in (place for place in sequences if place[:2] == (task, template)):
            own = [row for row in rows if row.place == place and any(row.trial is trial for trial in chosen[place].trials)]
            curves[place[2]] = _mean_curve([row.path for row in own if row.path is not None])
            ends |= {row.facts["steps"] * stage for row in own for stage in range(1, place[2].count(">") + 1)}
        name = "orders.png" if number == 1 else f"orders-{number}.png"
        draw_sequence(curves, sorted(ends), out_dir / name, f"{short_name(task)}, {template}")


def _mean_curve(paths: Sequence[Path]) -> list[tuple[int, float]]:
    """Updates and dev score, mean over runs."""
    steps: dict[int, list[float]] = {}
    for path in paths:
        for record in read_records(path):
            if record["kind"] == "curve" and record["value"] is not None:
                steps.setdefault(record["step"], []).append(record["value"])
    return [(step, fmean(values)) for step, values in sorted(steps.items())]


def _plain(row: Row) -> list[Any]:
    return [*row.place, row.trial.seed, row.trial.rate, row.trial.dev]
