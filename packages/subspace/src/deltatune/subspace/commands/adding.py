"""`add`: more source tasks in a subspace that stays as it was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.errors import DeltatuneError
from deltatune.subspace import space as spaces
from deltatune.subspace.approximation import Approximation
from deltatune.subspace.commands.approximating import show_points
from deltatune.subspace.objective import spread
from deltatune.subspace.place import Found, Place
from deltatune.subspace.stage1 import Judge, Stage1, all_points, gathered, opened
from deltatune.subspace.views import attach_each


def add(
    subspace: Path,
    init: Path,
    solutions: list[Path],
    tasks: list[str],
    out_dir: Path,
    config_yaml: SavedConfig,
    dev_lines: int | None = None,
    mixtures: int = 2,
    model: str | None = None,
    data_dir: Path | None = None,
    device: Device = "auto",
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Add source tasks to a trained subspace without training it: their solutions become points of it.

    The encoders say where the solutions lie. Every delta's point, the centroid and seeded mixtures are decoded into every delta
    and scored, which shows whether the subspace, as it is, has room for the task. The result is a subspace of its own with the
    same projections, whose mean point and landscapes know the new tasks too.

    Args:
        subspace: folder made by `approximate`, or by `add`.
        init: folder of the initial values that the subspace and the solutions start from.
        solutions: roots of solutions made by `train-delta`; several give several solutions of each task.
        tasks: which of them, as a list; none may be in the subspace already.
        out_dir: folder of the result; the subspace with the new tasks is in it.
        config_yaml: filled in by the program.
        dev_lines: dev examples of each task: the first ones, of a smaller task all of them again and again.
        mixtures: seeded mixtures that are scored beside the centroid and each delta's own point.
        model: where the model is now, if not where it was.
        data_dir: where the tasks' files are now, if not where they were.
        device: where to compute.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    space = spaces.read(subspace)
    _ = space.encoders  # without them nothing can be added
    if known := [task for task in tasks if task in space.points]:
        raise DeltatuneError(f"--tasks: {known[0]} is a source task of {subspace} already; leave it out")
    if not tasks:
        raise DeltatuneError("--tasks names no task; name those whose solutions are to be added")
    config = Stage1(
        init, tuple(solutions), tuple(tasks), space.names, space.k, space.objective, train_lines=1, dev_lines=dev_lines,
        mixtures=mixtures, data_dir=data_dir, model=model, device=device,
    )  # fmt: skip
    initial, found, digests = opened(config)
    if wrong := [name for name, digest in digests["init"].items() if space.about["init"][name] != digest]:
        raise DeltatuneError(f"{init / wrong[0]}: not the initial values of {subspace}; give those that it was made from")
    settings: dict[str, Any] = {"subspace": space.digest, "tasks": list(found), "dev_lines": dev_lines, "mixtures": mixtures}

    def work(folder: Any, processes: Any) -> Found:
        backbone = initial.backbone(model, device)
        moved = space.to(backbone.device)
        inputs = gathered(config, initial, found, backbone, moved)
        approximation = Approximation(moved, attach_each(backbone, space.configs), inputs.sources, by_tokens=True)
        with torch.no_grad():
            points = {task: all_points(approximation, number) for number, task in enumerate(found)}
        more = replace(space, points={**space.points, **points})
        processes.lead(lambda: spaces.save(folder.path / "subspace", more))
        facts = {
            "k": space.k,
            "sizes": {name: own.size for name, own in space.projections.items()},
            "rebuilt": {task: approximation.rebuilt(number) for number, task in enumerate(found)},
            "spread": {task: spread(own[0]) for task, own in points.items()},
        }
        return facts, list(Judge(approximation, inputs, mixtures).records())

    facts = Place(out_dir, config_yaml, overwrite, tag, device).once("add", {**settings, **digests}, work)
    show_points(facts, out_dir)
    output().print(f"{len(space.points) + len(found)} source tasks in {out_dir / 'subspace'}", soft_wrap=True)
