"""`make-init` and `train-delta`: the original solutions that everything else starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from deltatune.core.backbone import BackboneConfig
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import tuning
from deltatune.core.data import short_name
from deltatune.core.delta import DeltaConfig
from deltatune.core.optim import OptimizerConfig
from deltatune.core.train import TrainConfig
from deltatune.core.tune_config import TuneConfig
from deltatune.core.tuning import tune_to
from deltatune.subspace.initial import PUBLISHED, Initial, draw_initial, read_initial
from deltatune.subspace.place import PROGRAM, Found, Place
from deltatune.subspace.solutions import place_of
from deltatune.subspace.splits import read_split, require_distinct

# What the initial values decide: the model, the delta and its start.
OF_THE_INIT = ("model", "task", "delta", "also", "start", "other_base", "init_seed", "form", "revision", "sites")
ORIGINAL = TrainConfig(OptimizerConfig("adafactor", schedule="constant", max_grad_norm=None), eval_every=100, save_every=100)


def make_init(
    model: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    deltas: list[DeltaConfig] | None = None,
    init_seed: int = 0,
    num_labels: int = 2,
    form: Literal["auto", "head", "prompt", "text"] = "auto",
    revision: str | None = None,
    sites: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Store the initial values of each delta, from which all solutions of all tasks are tuned.

    A subspace is made of differences to these values, so solutions from other values have no place in it.

    Args:
        model: folder of a Hugging Face model, FOLDER@STEP of a `ckpt_STEP` series, or a hub name.
        out_dir: folder of the values, one folder in it for each delta.
        config_yaml: filled in by the program.
        deltas: which, each as --deltas+ LoRA; settings of the last one as --deltas.rank 4. Of any kinds and sizes. By default the
            published adapter of width 12, LoRA of rank 10 and prefix of 120 with width 24, of one size on T5-base.
        init_seed: seed of the values.
        num_labels: rows of the task head, of models that classify; all tasks must have so many labels.
        form: how tasks are asked: a classification head, label words at a mask, text to text, or what suits the model.
        revision: branch, tag or commit of a hub model.
        sites: YAML record of an architecture that deltatune does not know.
        overwrite: throw away the values that are in out_dir.
    """
    chosen = tuple(deltas) if deltas is not None else PUBLISHED
    backbone = BackboneConfig(model, revision, form, "cpu", "fp32", sites)

    def work(folder: Any, processes: Any) -> Found:
        sizes = processes.lead(lambda: draw_initial(out_dir, backbone, chosen, init_seed, num_labels))
        return {"sizes": sizes}, []

    settings: dict[str, Any] = {"model": model, "revision": revision, "form": form, "sites": sites, "init_seed": init_seed}
    settings |= {"num_labels": num_labels, "deltas": [config.describe() for config in chosen]}
    facts = Place(out_dir, config_yaml, overwrite).once("make-init", settings, work)
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    for name, size in facts["sizes"].items():
        output().print(f"{name}: {size:,} values in {out_dir / name}", soft_wrap=True)


@sharing(tuning, without=OF_THE_INIT)
def train_delta(
    init: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    tasks: list[str] | None = None,
    split: str | None = None,
    part: Literal["sources", "unseen", "all"] = "all",
    family: str = "gym/",
    only: list[str] | None = None,
    model: str | None = None,
    train: TrainConfig = ORIGINAL,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Tune the original solution of every task with every delta, each from the stored initial values.

    The runs are in out_dir/TASK/DELTA, as `deltatune tune` leaves them. The same command goes on where it was interrupted.

    Args:
        init: folder made by `make-init`.
        out_dir: folder of the solutions.
        config_yaml: filled in by the program.
        tasks: which, as a list: '[world/sentiment-0, glue/rte]'.
        split: or those of a split: a JSON file with `train` and `unseen`, or train_60_unseen_rest for the published one.
        part: which tasks of the split.
        family: what stands before the names of the split.
        only: names of the deltas; all of the initial values by default.
        model: where the model is now, if not where it was.
        train: steps, batch size, schedule, selection.
        tag: a word of yours that goes into the records.
        overwrite: throw away runs of other settings that are there.
    """
    initial, chosen = read_initial(init, only), chosen_tasks(tasks, split, part, family)
    table = Table("task", "delta", "metric", "dev", "test", "steps")
    console = output()
    for task in chosen:
        for name in initial.saved:
            config = solution_config(initial, name, task, model, train, options)
            path = place_of(out_dir, task, name)
            facts = tune_to(config, path, {"command": f"{PROGRAM} train-delta", "tag": tag}, config_yaml, overwrite)
            scores = [facts["scores"].get(part, {}).get("value") for part in ("dev", "test")]
            metric = next(iter(facts["scores"].values()), {"metric": ""})["metric"]
            shown = ["" if value is None else f"{value:.4f}" for value in scores]
            table.add_row(short_name(task), name, metric, *shown, str(facts["step"]))
    console.print(table)
    for task in chosen:
        console.print(f"{short_name(task)}: {place_of(out_dir, task, '')}", soft_wrap=True)


def chosen_tasks(tasks: list[str] | None, split: str | None, part: str = "all", family: str = "gym/") -> list[str]:
    """The tasks that a command is given, in sorted order; notes on a split are printed.

    Raises:
        DeltatuneError: none, one twice, or a split that does not hold.
    """
    found = list(tasks or ())
    if split is not None:
        read = read_split(split, family)
        found += {"sources": read.sources, "unseen": read.unseen}.get(part, (*read.sources, *read.unseen))
        for note in read.notes:
            output(error=True).print(f"note: {note}", soft_wrap=True)
    require_distinct(found)
    return sorted(found)


def solution_config(
    initial: Initial, name: str, task: str, model: str | None, train: TrainConfig, options: dict[str, Any]
) -> TuneConfig:
    """The run that tunes `task` from the initial values of delta `name`."""
    known = initial.backbone_settings()
    first, *others = initial.of(name)
    return tuning(
        model=model or known["model"],
        task=task,
        delta=first,
        also=others,
        train=train,
        start=initial.path / name,
        form=known["form"],
        revision=None if model else known["revision"],
        sites=known["sites"] and Path(known["sites"]),
        **options,
    )
