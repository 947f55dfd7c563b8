"""`project`: upgrade an outdated delta without training, by a projection learnt on other tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltatune.core import checkpoint
from deltatune.core.backbone import Device
from deltatune.core.checkpoint import base_record
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.combining import require_one_space
from deltatune.core.delta import attach
from deltatune.core.evaluation import evaluate
from deltatune.core.reuse import TunedRun, open_run
from deltatune.core.weights import check_match
from deltatune.recyclable.commands.results import Found, Kept, show_scores
from deltatune.recyclable.methods import identity
from deltatune.recyclable.projection import learn
from deltatune.recyclable.projection import project as upgrade
from deltatune.recyclable.recycle import put


def project(
    run: Path,
    model: str,
    old: list[Path],
    new: list[Path],
    out_dir: Path,
    config_yaml: SavedConfig,
    rank: int = 16,
    ridge: float = 1e-3,
    share: float = 1.0,
    with_head: bool = True,
    task: str | None = None,
    data_dir: Path | None = None,
    device: Device = "auto",
    max_dev: int | None = None,
    max_test: int | None = None,
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Learn how the deltas of some tasks changed with the base, apply that to another task's outdated delta, and score it.

    Nothing is trained: the projection v W1 W2 + b is the ridge regression of the new weights on the old ones, of rank at most
    --rank. The same delta applied as it is stands beside it.

    Args:
        run: the outdated run whose task the projection has not seen.
        model: the upgraded base.
        old: outdated runs of the other tasks, as a list: '[runs/a, runs/b]'.
        new: runs of the same tasks on the upgraded base, in the same order.
        out_dir: folder of the result; it holds the projected delta.
        config_yaml: filled in by the program.
        rank: width of the projection; n tasks determine a rank of n - 1 at most.
        ridge: how strongly the projection is held small, as a share of the spread of the old weights.
        share: 1 takes the projected weights, 0 the outdated ones, between them their mixture.
        with_head: project the task head as well (published); otherwise it is copied.
        task: another task than the run's.
        data_dir: where the task's files are now, if not where they were.
        device: where to compute.
        max_dev: use the first N dev examples.
        max_test: use the first N test examples.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    opened, before, after = open_run(run), [open_run(path) for path in old], [open_run(path) for path in new]
    _check(opened, before, after)
    choice = opened.task_choice(task, data_dir)
    loaded = choice.load()
    backbone = opened.backbone(model, device)
    form = opened.format(backbone, loaded)
    tuned = attach(backbone, *opened.saved.configs)
    put(opened.saved, tuned)
    settings: dict[str, Any] = {
        "delta": identity(run),
        "old": [identity(path) for path in old],
        "new": [identity(path) for path in new],
    }
    settings |= {"base": base_record(backbone), "task": choice.task, "data": loaded.digest, "max_length": choice.max_length}
    settings |= {"rank": rank, "ridge": ridge, "share": share, "with_head": with_head, "max_dev": max_dev, "max_test": max_test}
    parts = {"dev": loaded.dev[:max_dev], "test": loaded.test[:max_test]}

    def work() -> Found:
        untouched = {split: evaluate(tuned, form, part).numbers() for split, part in parts.items() if part}
        taken = [n for n in opened.saved.weights if with_head or n not in opened.saved.head]
        sides = [[{n: r.saved.weights[n] for n in taken} for r in side] for side in (before, after)]
        mapped = learn(sides[0], sides[1], rank, ridge)
        changed = upgrade(mapped, {n: opened.saved.weights[n] for n in taken}, share)
        tuned.load({**opened.saved.weights, **changed})
        projected = {split: evaluate(tuned, form, part).numbers() for split, part in parts.items() if part}
        known = {"task": choice.task, "labels": list(loaded.labels), "metric": form.metric, "form": backbone.form}
        checkpoint.save(out_dir / "delta", tuned, {**known, "projected_from": run.as_posix()})
        common = {"task": choice.task, "base": backbone.name, "delta": run.as_posix(), "rank": mapped.down.shape[1]}
        found = (("untouched", untouched), ("projected", projected))
        records = [{**common, "kind": kind, "split": split, **n} for kind, side in found for split, n in side.items()]
        return {"untouched": untouched, "scores": projected, "rank": mapped.down.shape[1]}, records

    facts = Kept(out_dir, config_yaml, overwrite, tag).once("project", settings, work)
    rows = [(f"{split} untouched", numbers) for split, numbers in facts["untouched"].items()]
    show_scores([*rows, *((f"{split} projected", numbers) for split, numbers in facts["scores"].items())])


def _check(opened: TunedRun, before: list[TunedRun], after: list[TunedRun]) -> None:
    for side, what, base in ((before, "--old", opened), (after, "--new", after[0] if after else opened)):
        for other in side:
            require_one_space(base.saved, other.saved, what)
            check_match(opened.saved.weights, other.saved.weights, f"{what} {other.path} and --run {opened.path}")
