"""`report`: the paths of several pairs together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core.cli.output import output
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.data import short_name
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, write_text
from deltatune.core.run import read_records
from deltatune.modeconn import figures
from deltatune.modeconn.commands.shown import PROGRAM, SPLITS

Rows = list[dict[str, Any]]


def report(paths: list[Path], out_dir: Path, config_yaml: SavedConfig, tag: str = "", overwrite: bool = False) -> None:
    """Put walks, curves, planes and data maps together: profiles with intervals over pairs, a table of barriers, all figures.

    Args:
        paths: results of `walk`, `curve`, `plane`, `tune --cartography` and `cartography combine`.
        out_dir: folder of the report: `report.md` and figures.
        config_yaml: filled in by the program.
        tag: a word of yours that goes into the records.
        overwrite: throw away a report that is in out_dir.
    """
    if not paths:
        raise DeltatuneError("--paths is empty; name at least one result of `walk` or `curve`")
    found = [folder for path in paths for folder in _folders(path)]
    facts = [read_json(folder / "run.json") for folder in found]
    for folder, item in zip(found, facts, strict=True):
        if item.get("status") != "finished":
            raise DeltatuneError(f"{folder}: not finished; give its command again first")
    settings = {"results": [[folder.as_posix(), item["config_digest"]] for folder, item in zip(found, facts, strict=True)]}

    def work() -> Found:
        lines = [row for folder, item in zip(found, facts, strict=True) for row in _barriers(folder, item)]
        text = ["# Paths between tuned models", ""]
        if lines:
            text += [*_table(lines), "", *_profiles(found, facts, out_dir)]
        for folder in found:
            for figure in sorted((folder / "figures").glob("*.png")):
                text += [
                    "",
                    f"## {_name(folder)}: {figure.stem}",
                    f"![{figure.stem} of {_name(folder)}]({_relative(figure, out_dir)})",
                ]
        write_text(out_dir / "report.md", "\n".join(text) + "\n")
        return {"barriers": lines}, [{"kind": "barrier", **line} for line in lines]

    shown = Kept(out_dir, config_yaml, overwrite, tag, PROGRAM).once("report", settings, work)["barriers"]
    table = Table("path", "kind", "task", "split", "loss barrier", "drop", "connected")
    for line in shown:
        numbers = [f"{line[name]:.4f}" for name in ("barrier", "drop")]
        table.add_row(line["path"], line["shape"], line["task"], line["split"], *numbers, "yes" if line["connected"] else "no")
    output().print(table)
    output().print(f"report in {out_dir / 'report.md'}", soft_wrap=True)


def _folders(path: Path) -> list[Path]:
    """Where the results are: the folder itself, and the evaluation inside that of a curve."""
    if not (path / "run.json").is_file():
        raise DeltatuneError(f"{path}: no result here; give folders of `walk`, `curve`, `plane` or `tune --cartography`")
    return [path / "sweep"] if (path / "sweep" / "run.json").is_file() else [path]


def _name(folder: Path) -> str:
    return folder.parent.name if folder.name == "sweep" else folder.name


def _barriers(folder: Path, facts: Mapping[str, Any]) -> Rows:
    shape = "curve" if facts.get("command", "").endswith("curve sweep") else "line"
    return [
        {
            "path": _name(folder),
            "shape": shape,
            "task": short_name(task),
            "split": split,
            "barrier": found[split]["loss"]["barrier"],
            "drop": found[split]["score"]["drop"],
            "connected": found[split]["connected"],
        }
        for task, found in facts.get("paths", {}).items()
        for split in SPLITS
        if {"loss", "score"} <= set(found.get(split, {}))
    ]


def _table(lines: Rows) -> list[str]:
    names = ("path", "shape", "task", "split", "barrier", "drop", "connected")
    rows = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for line in lines:
        cells = [f"{line[name]:.4f}" if name in ("barrier", "drop") else str(line[name]) for name in names[:-1]]
        rows.append("| " + " | ".join([*cells, "yes" if line["connected"] else "no"]) + " |")
    return rows


def _profiles(folders: Sequence[Path], facts: Sequence[Mapping[str, Any]], out_dir: Path) -> list[str]:
    """A figure for each task, shape and split that more than one pair has."""
    groups: dict[tuple[str, str, str], list[Rows]] = {}
    for folder, item in zip(folders, facts, strict=True):
        rows = [row for row in read_records(folder) if row.get("kind") == "path" and "group" not in row]
        shape = "curve" if item.get("command", "").endswith("curve sweep") else "line"
        for task, split in dict.fromkeys((row["task"], row["split"]) for row in rows):
            own = [row for row in rows if (row["task"], row["split"]) == (task, split)]
            groups.setdefault((task, shape, split), []).append(own)
    text = []
    for (task, shape, split), pairs in groups.items():
        if len(pairs) > 1:
            name = f"{short_name(task).replace('/', '-')}-{shape}-{split}.png"
            figures.save(out_dir / "figures" / name, partial(figures.draw_pairs, pairs=pairs, split=split))
            text += [f"![{shape} on {short_name(task)}, {split}, {len(pairs)} pairs](figures/{name})", ""]
    return text


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()
