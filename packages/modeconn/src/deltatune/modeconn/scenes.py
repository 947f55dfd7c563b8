"""What a path is measured in: one task, one model, and the ends in one copy each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from deltatune.core import checkpoint
from deltatune.core.backbone import Backbone, Device
from deltatune.core.data import Task
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.formats import Format
from deltatune.core.paths import End, settle
from deltatune.core.reuse import TunedRun
from deltatune.core.tune_config import TaskChoice

Along = Literal["auto", "whole", "delta"]


@dataclass(frozen=True)
class Where:
    """How the ends are put into a model.

    Args:
        models: where the base of each end is now; None where its run found it.
        device: where to compute.
        whole: the bases move as well.
    """

    models: tuple[str | None, ...]
    device: Device
    whole: bool


def is_whole(runs: Sequence[TunedRun], along: Along) -> bool:
    """Whether the bases move: as told, or where the ends were tuned on different ones."""
    return along == "whole" or (along == "auto" and len({run.saved.base["digest"] for run in runs}) > 1)


@dataclass(frozen=True)
class Scene:
    """One task on a path.

    Args:
        choice: which task.
        task: with its examples.
        tuned: a model with the deltas of the ends, at none of them yet; see `deltatune.core.paths.settle` for what it can do.
        form: how the task is asked.
        ends: of the path, one copy of what moves each.
        own: the end whose output tensors stay while all else moves; None where they move too.
    """

    choice: TaskChoice
    task: Task
    tuned: Tuned
    form: Format
    ends: list[End]
    own: int | None


def tasks_of(runs: Sequence[TunedRun], names: Sequence[str], data_dir: Path | None) -> list[tuple[TaskChoice, int | None]]:
    """The tasks to evaluate a path on, each with the end whose output tensors belong to it.

    Args:
        runs: the ends.
        names: tasks; those that the ends were tuned on by default.
        data_dir: where the files are now.
    """
    known = [run.saved.about.get("task") or (run.settings.get("task") or {}).get("task") for run in runs]
    wanted = list(dict.fromkeys(names or [name for name in known if name is not None]))
    if not wanted:
        runs[0].task_choice(None)  # says what is missing
    several = len({name for name in known if name is not None}) > 1
    found = []
    for name in wanted:
        end = known.index(name) if name in known else None
        choice = runs[end or 0].task_choice(name, data_dir)
        found.append((replace(choice, half=None), end if several else None))
    return found


def outputs(run: TunedRun) -> set[str]:
    """Names of the tensors that map states to the classes of one task: the head's last map."""
    matrices = [name for name in run.saved.head if run.saved.weights[name].dim() == 2 and "pooler" not in name]
    module = matrices[-1].rpartition(".")[0] if matrices else None
    return {name for name in run.saved.head if name.rpartition(".")[0] == module}


def scene(runs: Sequence[TunedRun], choice: TaskChoice, own: int | None, where: Where, spend: bool = False) -> Scene:
    """Load the model and the ends for one task: one copy of the model and one of each end are in memory, besides `runs`.

    Args:
        runs: the ends; those `without_weights` are read again.
        choice: of the task.
        own: the end whose output tensors stay.
        where: see there.
        spend: take the weights out of `runs`, so that no end is in memory twice.

    Raises:
        DeltatuneError: ends, task and head do not fit each other.
    """
    if own is None and any(run.labels not in (None, runs[0].labels) for run in runs):
        raise DeltatuneError(
            f"{runs[0].path} and {runs[1].path}: their heads know other labels; name the tasks they were tuned on"
        )
    task, k = choice.load(), own or 0
    # Ends on bases of their own come first: each needs its base for a moment.
    ends = {j: _elsewhere(run, where, j, spend) for j, run in enumerate(runs) if where.whole and j != k}
    backbone = runs[k].backbone(where.models[k], where.device)
    form = runs[k].format(backbone, task)
    names = outputs(runs[k]) if own is not None else set()
    tuned = _attach(runs[k], backbone, where.models[k] is not None)
    here = [k, *(j for j in range(len(runs)) if j != k and j not in ends)]
    kept: dict[str, Tensor] = {}

    def deltas() -> Iterator[dict[str, Tensor]]:
        for j in here:
            weights = weights_of(runs[j], spend)
            if j == k:
                kept.update((name, weights[name]) for name in names)
            weights.update(kept)
            yield weights

    ends.update(zip(here, settle(tuned, deltas(), where.whole), strict=True))
    return Scene(choice, task, tuned, form, [End({**ends[j].deltas, **kept}, ends[j].base) for j in range(len(runs))], own)


def _attach(run: TunedRun, backbone: Backbone, other_base: bool) -> Tuned:
    """The deltas of a run without its values."""
    if not other_base:
        checkpoint.require_base(run.saved, backbone)
    return attach(backbone, *run.saved.configs, head=bool(run.saved.head))


def _elsewhere(run: TunedRun, where: Where, number: int, spend: bool) -> End:
    """An end on a base of its own."""
    tuned = _attach(run, run.backbone(where.models[number], "cpu"), where.models[number] is not None)
    return settle(tuned, iter([weights_of(run, spend)]), with_base=True)[0]


def without_weights(run: TunedRun) -> TunedRun:
    """The run with names and shapes of its tensors alone, where `scene` can read them again: from an unchanged delta folder."""
    if run.saved.path is None or run.saved.digest is None:
        return run
    weights = {name: tensor.to("meta") for name, tensor in run.saved.weights.items()}
    return replace(run, saved=replace(run.saved, weights=weights))


def weights_of(run: TunedRun, spend: bool = False) -> dict[str, Tensor]:
    """The run's delta as a mapping of its own, read again where the run has its shapes alone."""
    if run.saved.path is not None and any(tensor.is_meta for tensor in run.saved.weights.values()):
        return checkpoint.read(run.saved.path).weights
    found = dict(run.saved.weights)
    if spend:
        run.saved.weights.clear()
    return found
