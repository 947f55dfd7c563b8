"""`optimize` and `transfer`: use a subspace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.backbone import BackboneConfig, Device
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import tuning
from deltatune.core.delta import Head
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate
from deltatune.core.files import read_json
from deltatune.core.optim import OptimizerConfig
from deltatune.core.reuse import TunedRun, open_run
from deltatune.core.run import read_records
from deltatune.core.train import TrainConfig
from deltatune.core.tune_config import TaskChoice
from deltatune.subspace import space as spaces
from deltatune.subspace.commands.originals import OF_THE_INIT, chosen_tasks
from deltatune.subspace.coordinates import First
from deltatune.subspace.place import Found, Place
from deltatune.subspace.solutions import place_of, require_kind, require_start
from deltatune.subspace.space import Subspace
from deltatune.subspace.splits import leaks
from deltatune.subspace.stage2 import CONTROLS, Stage2, carry_out, require_originals
from deltatune.subspace.views import attach_each

COORDINATES = TrainConfig(
    OptimizerConfig("adafactor", schedule="constant", max_grad_norm=None), batch_size=8, eval_every=100, save_every=100
)
Control = Literal["random", "zero", "mean", "head"]


@sharing(tuning, without=(*OF_THE_INIT, "lr"))
def optimize(
    subspace: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    tasks: list[str] | None = None,
    split: str | None = None,
    family: str = "gym/",
    sources: list[str] | None = None,
    targets: list[str] | None = None,
    lrs: list[float] | None = None,
    originals: Path | None = None,
    controls: list[Control] | None = None,
    first: First = "random",
    seed: int = 0,
    model: str | None = None,
    train: TrainConfig = COORDINATES,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Solve tasks by tuning only their coordinates in a subspace, and decode what is found into the other deltas (stage 2).

    For every task and source delta a point is tuned with every learning rate; the best on dev is decoded into every target.
    Beside it stand the controls. The runs are below out_dir and go on where they were interrupted.

    Args:
        subspace: folder made by `approximate`.
        out_dir: folder of the results.
        config_yaml: filled in by the program.
        tasks: unseen tasks, as a list: '[world/sentiment-1]'.
        split: or the unseen tasks of a split: a JSON file, or train_60_unseen_rest for the published one.
        family: what stands before the names of the split.
        sources: deltas that a point is tuned through; each in turn by default.
        targets: deltas that it is decoded into; all by default.
        lrs: learning rates to choose from on dev; the published 0.01 and 0.05 by default.
        originals: root of the original solutions of these tasks, made by `train-delta`; without them no score is relative.
        controls: of random (decoders with columns of the same lengths, tuned alike), zero (the initial values), mean (the mean of
            the source points, not tuned) and head (of what is found the task head alone, where it is part of the deltas; the rest
            at its initial values); all by default, [] for none.
        first: a point begins random and near 0 (published), or at the mean of the source points.
        seed: of the first points and of random decoders.
        model: where the model is now, if not where it was.
        train: steps, batch size, schedule, selection; the rates are those of --lrs.
        tag: a word of yours that goes into the records.
        overwrite: throw away the results and runs that are in out_dir.
    """
    space = spaces.read(subspace)
    for name in (*(sources or ()), *(targets or ())):
        space.require(name)
    known = chosen_tasks(tasks, split, "unseen", family)
    settings = space.about["settings"]["backbone"]
    config = tuning(
        model=model or settings["model"], task=known[0], delta=Head(), train=train, form=settings["form"],
        revision=None if model else settings["revision"], sites=settings["sites"] and Path(settings["sites"]), **options,
    )  # fmt: skip
    if config.train.optimizer.lr is not None:
        raise DeltatuneError(f"--train.optimizer.lr {config.train.optimizer.lr:g}: the rates are those of --lrs; give them there")
    stage = Stage2(
        space, config, known, sources or space.names, targets or space.names, lrs or (0.01, 0.05), out_dir,
        CONTROLS if controls is None else controls, partial(place_of, originals) if originals else None, seed,
        {"tag": tag}, first,
    )  # fmt: skip
    require_originals(stage)
    identity = {
        "subspace": space.digest, "tasks": known, "sources": list(stage.sources), "targets": list(stage.targets),
        "lrs": list(stage.lrs), "controls": list(stage.controls), "originals": originals, "seed": seed, "first": first,
        "run": {key: value for key, value in config.identity().items() if key in ("task", "train", "backbone")},
    }  # fmt: skip

    def work(folder: Any, processes: Any) -> Found:
        whole = TaskChoice("", config.task.data_dir, max_test=config.task.max_test)  # all training examples
        found = list(leaks(list(space.points), known, lambda task: replace(whole, task=task).load()))
        records = list(carry_out(stage))
        return {"k": space.k, "sources": list(stage.sources), "targets": list(stage.targets), "leaks": found}, records

    place = Place(out_dir, config_yaml, overwrite, tag, config.backbone.device)
    facts = place.once("optimize", identity, work)
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    show(read_records(out_dir))
    for leak in facts.get("leaks", ()):
        output(error=True).print(leak, soft_wrap=True)


def show(records: Iterable[Mapping[str, Any]]) -> None:
    """Print one line for each source and target: mean score over the tasks, relative performance, and chance."""
    found = [record for record in records if record["split"] == "test"] or list(records)
    table = Table("kind", "source", "target", "score", "original", "chance", "relative %", "corrected %", "tasks")
    for key in dict.fromkeys((record["kind"], record["source"] or "", record["target"]) for record in found):
        own = [record for record in found if (record["kind"], record["source"] or "", record["target"]) == key]
        values = [_mean(record[name] for record in own) for name in ("value", "original", "chance", "relative", "corrected")]
        cells = ["" if v is None else f"{v:.4f}" if i < 3 else f"{v:.1f}" for i, v in enumerate(values)]
        table.add_row(*key, *cells, str(len(own)))
    output().print(table)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def transfer(
    subspace: Path,
    run: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    source: str | None = None,
    targets: list[str] | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    model: str | None = None,
    device: Device = "auto",
    max_dev: int | None = None,
    max_test: int | None = None,
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Decode one solution into every delta of a subspace, score each, and keep them as delta folders.

    The solution is a run of `optimize`, whose coordinates are taken, or any solution tuned from the subspace's initial values,
    such as one of a task that the subspace has never seen: its encoder then says where the solution lies. Nothing is trained.

    Args:
        subspace: folder made by `approximate`.
        run: a run below `optimize`'s runs/, or a solution made by `train-delta`.
        out_dir: folder of the result, with one delta folder for each target.
        config_yaml: filled in by the program.
        source: the delta that the solution is of, where two of the subspace are of one kind.
        targets: deltas to decode into; all by default.
        task: another task than the run's.
        data_dir: where the task's files are now, if not where they were.
        model: where the model is now, if not where it was.
        device: where to compute.
        max_dev: use the first N dev examples.
        max_test: use the first N test examples.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    space, opened = spaces.read(subspace), open_run(run)
    name = source or kind_of(space, opened)
    point, how = located(space, opened, name)
    names = targets or list(space.names)
    for target in names:
        space.require(target)
    choice = opened.task_choice(task, data_dir)
    settings: dict[str, Any] = {
        "subspace": space.digest,
        "run": run,
        "delta": opened.saved.digest,
        "source": name,
        "targets": names,
    }
    settings |= {"task": choice.task, "max_dev": max_dev, "max_test": max_test}

    def work(folder: Any, processes: Any) -> Found:
        loaded = choice.load()
        backbone = opened.backbone(model, device)
        space.require_base(backbone)
        moved, form = space.to(backbone.device), opened.format(backbone, loaded)
        tuned = attach_each(backbone, {target: space.configs[target] for target in names})
        about: dict[str, Any] = {"task": choice.task, "labels": list(loaded.labels), "metric": form.metric, "form": backbone.form}
        about |= {"settings": {"backbone": dict(space.about["settings"]["backbone"])}, "coordinates": point.tolist()}
        records = []
        for target, model_with in tuned.items():
            with torch.no_grad():
                model_with.load(moved.decode(target, point.to(backbone.device)))
            checkpoint.save(out_dir / target, model_with, about)
            for split, part in (("dev", loaded.dev[:max_dev]), ("test", loaded.test[:max_test])):
                if part:
                    scores = evaluate(model_with, form, part)
                    records.append({"kind": "transfer", "task": choice.task, "source": name, "target": target, "split": split,
                                    **scores.numbers()})  # fmt: skip
        return {"coordinates": point.tolist(), "located": how}, records

    facts = Place(out_dir, config_yaml, overwrite, tag, device).once("transfer", settings, work)
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    table = Table("source", "target", "split", "metric", "value", "loss", "examples")
    for r in read_records(out_dir):
        value, loss = ("" if r[key] is None else f"{r[key]:.4f}" for key in ("value", "loss"))
        table.add_row(r["source"], r["target"], r["split"], r["metric"], value, loss, f"{r['n']:,}")
    output().print(table)
    output().print(facts["located"], soft_wrap=True)


def kind_of(space: Subspace, opened: TunedRun) -> str:
    """The delta of the subspace that a run is of.

    Raises:
        DeltatuneError: none, or several.
    """
    wanted = [config.describe() | {"dropout": None} for config in opened.saved.configs if not isinstance(config, Head)]
    found = [
        name
        for name, own in space.configs.items()
        if [config.describe() | {"dropout": None} for config in own if not isinstance(config, Head)] == wanted
    ]
    if len(found) == 1:
        return found[0]
    said = f"is of several deltas of the subspace ({', '.join(found)})" if found else "is of no delta of the subspace"
    raise DeltatuneError(f"{opened.path} {said}; name one with --source: {', '.join(space.names)}")


def located(space: Subspace, opened: TunedRun, name: str) -> tuple[torch.Tensor, str]:
    """Where a solution lies in the subspace (k,), and a sentence on how that is known."""
    space.require(name)
    facts = read_json(opened.folder / "run.json") if (opened.folder / "run.json").is_file() else {}
    method = facts.get("config", {}).get("method", {})
    if "coordinates" in facts.get("found", {}):
        if method.get("subspace") != space.digest or method.get("decoders") != "trained":
            raise DeltatuneError(f"{opened.path}: its coordinates belong to another subspace or to random decoders; give its own")
        return torch.tensor(facts["found"]["coordinates"]), "coordinates as they were tuned"
    where = f"{name} of the subspace {space.path}"
    require_kind(opened, space.configs[name], space.base, where)
    require_start(opened, str(space.about["init"][name]), where)
    vector = space.vector(name, opened.saved.weights)
    second = list(space.encoders.values())[1] if space.objective.shared_second_layer and name == space.names[0] else None
    own = space.encoders[name]
    point = own.encode(vector, space.objective.activation, second)
    lost = float((vector - own.decode(point)).norm() / vector.norm().clamp(min=1e-12))
    return point, f"coordinates from the encoder of {name}; {100 * lost:.1f}% of the solution is not rebuilt from them"


def backbone_of(space: Subspace, model: str | None, device: Device) -> BackboneConfig:
    """Which model a subspace is for."""
    settings = space.about["settings"]["backbone"]
    kept = {key: settings[key] for key in ("model", "revision", "form", "precision")}
    if model is not None:
        kept |= {"model": model, "revision": None}
    return replace(BackboneConfig(**kept, sites=settings["sites"] and Path(settings["sites"])), device=device)
