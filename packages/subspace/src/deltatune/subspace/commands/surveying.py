"""`landscape` and `report`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import write_text
from deltatune.core.formats import build_format
from deltatune.core.loading import load_backbone
from deltatune.core.run import read_records
from deltatune.core.tune_config import TaskChoice
from deltatune.subspace import figures
from deltatune.subspace import space as spaces
from deltatune.subspace.approximation import score_points
from deltatune.subspace.commands.optimizing import backbone_of
from deltatune.subspace.landscape import Plane, axes, flat, plane, summary, triangle
from deltatune.subspace.place import Found, Place
from deltatune.subspace.space import Subspace
from deltatune.subspace.tables import report_text
from deltatune.subspace.views import attach_each


def landscape(
    subspace: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    task: str | None = None,
    plane: Plane = "triangle",
    corners: list[str] | None = None,
    resolution: int = 6,
    extent: float = 1.5,
    seed: int = 0,
    split: Literal["dev", "test"] = "dev",
    max_examples: int | None = None,
    max_length: int = 256,
    data_dir: Path | None = None,
    model: str | None = None,
    device: Device = "auto",
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Score a source task on a grid of the subspace, decoded into every delta: where do all of them work?

    Args:
        subspace: folder made by `approximate`.
        out_dir: folder of the result, with the records and the figure landscape.png.
        config_yaml: filled in by the program.
        task: which source task's points; needed where there are several.
        plane: the triangle of three deltas' points, or a random plane through their middle.
        corners: the three deltas of the triangle; the first three by default.
        resolution: steps along an edge of the triangle; from the middle to the border of the plane.
        extent: half the width of the plane, in mean distances of the points from their middle; in its length where all lie there.
        seed: of the plane.
        split: which examples.
        max_examples: the first N of them.
        max_length: longest input in tokens.
        data_dir: where the task's files are now, if not where they were.
        model: where the model is now, if not where it was.
        device: where to compute.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    space = spaces.read(subspace)
    name = _source_task(space, task)
    three = tuple(corners or space.names[:3])
    if plane == "triangle" and len(three) != 3:
        raise DeltatuneError(f"a triangle has three corners, got {', '.join(three) or 'none'}; take --plane random")
    found = _grid(space, name, plane, three, resolution, extent, seed)
    choice = TaskChoice(name, data_dir, max_length)
    settings: dict[str, Any] = {
        "subspace": space.digest,
        "task": name,
        "plane": plane,
        "corners": list(three),
        "resolution": resolution,
    }
    settings |= {"extent": extent, "seed": seed, "split": split, "max_examples": max_examples, "max_length": max_length}

    def work(folder: Any, processes: Any) -> Found:
        loaded = choice.load()
        backbone = load_backbone(backbone_of(space, model, device), num_labels=space.about.get("num_labels"))
        space.require_base(backbone)
        moved, form = space.to(backbone.device), build_format(backbone, loaded, max_length)
        examples = getattr(loaded, split)[:max_examples]
        if not examples:
            raise DeltatuneError(f"task {name} has no {split} examples; give the other --split")
        points = {str(number): point.to(backbone.device) for number, (_, point) in enumerate(found)}
        records = [
            {"kind": "place", "task": name, "x": found[int(place)][0][0], "y": found[int(place)][0][1], "delta": delta,
             "split": split, **scores.numbers()}
            for place, delta, scores in score_points(moved, attach_each(backbone, space.configs), form, examples, points)
        ]  # fmt: skip
        size = (3.1 * len(space.names) + 1, 3.2)
        corners_shown = three if plane == "triangle" else ()
        processes.lead(lambda: figures.save(out_dir / "landscape.png", lambda f: figures.maps(f, records, corners_shown), size))
        return {"landscape": summary(records, split), "points": len(found)}, records

    facts = Place(out_dir, config_yaml, overwrite, tag, device).once("landscape", settings, work)
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    seen, console = facts["landscape"], output()
    console.print(f"{100 * seen['common_region']:.0f}% of {facts['points']} points: every delta has 90% of its own best score")
    for pair, value in seen["correlations"].items():
        console.print(f"rank correlation of {pair}: {'one is constant' if value is None else f'{value:.2f}'}")
    console.print(f"figure in {out_dir / 'landscape.png'}", soft_wrap=True)


def _source_task(space: Subspace, task: str | None) -> str:
    if task is None and len(space.points) == 1:
        return next(iter(space.points))
    if task is None or task not in space.points:
        said = f"--task {task}: not a source task of the subspace" if task else "several source tasks; give --task"
        raise DeltatuneError(f"{said}: {', '.join(space.points)}")
    return task


def _grid(
    space: Subspace, task: str, kind: Plane, corners: Sequence[str], resolution: int, extent: float, seed: int
) -> list[tuple[tuple[float, float], torch.Tensor]]:
    """((x, y) of the figure, point (k,)) for every place of the grid."""
    own = space.points[task][0]
    for corner in corners:
        space.require(corner)
    if kind == "triangle" and torch.equal(own, own[:1].expand_as(own)):
        raise DeltatuneError(f"all deltas have one point for {task} in this subspace, hence no triangle; take --plane random")
    if kind == "triangle":
        ends = torch.stack([own[space.names.index(corner)] for corner in corners])
        return [(flat(shares), torch.tensor(shares) @ ends) for shares in triangle(resolution)]
    middle = own.mean(dim=0)
    apart = float((own - middle).norm(dim=1).mean())
    length = apart if apart > 1e-6 else max(float(middle.norm()), 1e-6)
    across = axes(space.k, extent * length, torch.Generator().manual_seed(seed))
    return [((x, y), middle + torch.tensor((x, y)) @ across) for x, y in plane(resolution)]


def report(results: list[Path], out_dir: Path, split: Literal["test", "dev"] = "test") -> None:
    """Make the tables of relative performance with intervals, and the figures, from results of `optimize`.

    Writes report.md, table.csv and the figures. Several results of the same tasks and k with other seeds give intervals over
    tasks and seeds; without several, over tasks alone.

    Args:
        results: folders made by `optimize`, as a list: '[runs/unseen-0, runs/unseen-1]'.
        out_dir: folder of the report.
        split: which scores.
    """
    records = []
    for number, path in enumerate(results):
        found = [record for record in read_records(path) if record.get("split") == split and "target" in record]
        records += [{**record, "result": number} for record in found]
    if not records:
        raise DeltatuneError(
            f"no {split} scores of `optimize` in {', '.join(map(str, results)) or 'no folder'}; give its folders"
        )
    if len(of := sorted({record["k"] for record in records})) > 1:
        raise DeltatuneError(f"results of k = {of[0]} and k = {of[1]} do not belong together; give those of one k")
    text = report_text(records, split)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / "report.md", text)
    write_text(out_dir / "table.csv", _csv(records))
    measure = "relative" if any(record["relative"] is not None for record in records) else "value"
    tasks = len({record["task"] for record in records})
    figures.save(out_dir / "figures/controls.png", lambda f: figures.bars(f, records, measure), (max(6.4, 1.6 * tasks), 4.2))
    figures.save(out_dir / "figures/transfer.png", lambda f: figures.heat(f, records, measure), (4.6, 3.6))
    output().print(text, soft_wrap=True)
    output().print(f"report.md, table.csv and figures in {out_dir}", soft_wrap=True)


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    names = ("task", "seed", "kind", "source", "target", "metric", "value", "original", "chance", "relative", "corrected", "n")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[record.get(name) for name in names] for record in records])
    return out.getvalue()


def mean_of(records: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of a number over the records that have it."""
    known = [record[name] for record in records if record.get(name) is not None]
    return fmean(known) if known else None
