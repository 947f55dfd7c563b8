"""What the commands print of paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core.cli.output import output
from deltatune.core.data import short_name
from deltatune.modeconn.profiles import TOLERANCE

PROGRAM = "deltatune-modeconn"
SPLITS = ("dev", "test", "train")


def show_path(paths: Mapping[str, Mapping[str, Any]], out_dir: Path, what: str = "points in") -> None:
    """A table of barriers and drops, then what is best and what becomes of the examples."""
    console = output()
    for full, found in paths.items():
        task = short_name(full)
        if "groups" in found:
            _show_groups(task, found)
            continue
        columns = ("barrier", "at", "mean of ends", f"{found['metric']} left", "right", "lowest", "drop", "at", "connected")
        table = Table(task, *columns)
        for split in [name for name in SPLITS if name in found]:
            table.add_row(split, *_cells(found[split]))
        console.print(table)
        for line in (f"{task}: {said}" for said in [*_best(found), *_examples(found)]):
            console.print(line, soft_wrap=True)
        if "points" in found:
            where = f"{found['points']} {what} {out_dir}; the ends are {found['distance']:.4g} apart"
            console.print(f"{where}; connected: a drop of at most {TOLERANCE:g}", soft_wrap=True)


def _cells(numbers: Mapping[str, Any]) -> list[str]:
    loss, score = numbers.get("loss"), numbers.get("score")
    cells = (
        [""] * 3
        if loss is None
        else [f"{loss['barrier']:.4f}", f"{loss['argmax']:g}", f"{(loss['left'] + loss['right']) / 2:.4f}"]
    )
    if score is None:
        return [*cells, *[""] * 6]
    cells += [f"{score[name]:.4f}" for name in ("left", "right", "minimum", "drop")]
    return [*cells, f"{score['argdrop']:g}", "yes" if numbers["connected"] else "no"]


def _best(found: Mapping[str, Any]) -> list[str]:
    best = found.get("best")
    if not best:
        return []
    said = f"best on dev at x = {best['x']:g}: {best['dev']:.4f} ({best['dev_of_better_end']:.4f} at the better end)"
    if "test" in best:
        said += f"; test {best['test']:.4f} ({best['test_of_better_end']:.4f})"
    if (gain := best.get("gain")) is not None:
        error = "" if gain["stderr"] is None else f" ± {gain['stderr']:.4f}"
        said += f", a gain of {gain['mean']:+.4f}{error}, sign test p = {gain['p']:.2g}"
    return [said]


def _examples(found: Mapping[str, Any]) -> list[str]:
    said = []
    for split, numbers in found.get("examples", {}).items():
        steps = (
            f"newly forgotten {sum(numbers['newly_forgotten'])} and remembered {sum(numbers['newly_remembered'])} in all steps"
        )
        said.append(f"{split}: {steps}; always right {numbers['always_right']}, never {numbers['never_right']}")
    return said


def _show_groups(task: str, found: Mapping[str, Any]) -> None:
    splits = [name for name in SPLITS if name in found["groups"][0]]
    titles = [
        title for split in splits for title in (f"{split} barrier", f"{split} drop", f"{split} {found['metric']} at its end")
    ]
    table = Table(f"{task}: group that moves alone", "distance", *titles)
    for row in found["groups"]:
        cells = [f"{row[split][key]:.4f}" for split in splits for key in ("barrier", "drop", "score_at_the_end")]
        table.add_row(row["group"], f"{row['distance']:.4g}", *cells)
    output().print(table)
