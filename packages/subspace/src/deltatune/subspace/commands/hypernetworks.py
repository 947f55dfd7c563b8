"""`hypernetwork`: learn decoders on a task, with no solutions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import tuning
from deltatune.core.delta import Head
from deltatune.core.run import read_records
from deltatune.core.train import TrainConfig
from deltatune.subspace.commands.approximating import APPROXIMATION, with_rate
from deltatune.subspace.commands.originals import OF_THE_INIT
from deltatune.subspace.hypernetwork import Differences, Hypernetwork, learn, require_mapped
from deltatune.subspace.initial import read_initial
from deltatune.subspace.place import Place


@sharing(tuning, without=(*OF_THE_INIT, "lr"))
def hypernetwork(
    init: Path,
    task: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    only: list[str] | None = None,
    k: int = 8,
    differences: Differences = "fastfood",
    seed: int = 0,
    model: str | None = None,
    train: TrainConfig = APPROXIMATION,
    lr: float | None = None,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Learn k numbers and the maps from them to every delta on one task, with no solutions to approximate.

    All deltas are made of the same numbers: small ones by a matrix, the difference that fine-tuning makes (`Full`, `Modules`) by
    a structured random projection of every tensor. What is left is a subspace for `optimize`, which tunes the numbers on other
    tasks and decodes them into the other deltas; it has no encoders.

    Args:
        init: folder made by `make-init`: which deltas, on which model. Their initial values are not added. A prefix has no inner
            width (--deltas.width null), and the model no classification head.
        task: task to learn on.
        out_dir: folder of the run; the subspace is in it.
        config_yaml: filled in by the program.
        only: names of the deltas; all of the initial values by default.
        k: how many numbers (published: intrinsic_dim, 8).
        differences: fastfood, a structured random projection with trained scales, or dense, a fixed random matrix.
        seed: of the first values.
        model: where the model is now, if not where it was.
        train: steps, batch size, schedule, selection.
        lr: learning rate, short for --train.optimizer.lr; 1e-2 by default.
        tag: a word of yours that goes into the records.
        overwrite: throw away a run that is in out_dir.
    """
    initial = read_initial(init, only)
    require_mapped(initial)
    known = initial.backbone_settings()
    config = tuning(
        model=model or known["model"], task=task, delta=Head(), train=train, lr=lr, form=known["form"],
        revision=None if model else known["revision"], sites=known["sites"] and Path(known["sites"]), **options,
    )  # fmt: skip
    setup = Hypernetwork(replace(config, train=with_rate(config.train, 1e-2)), k, differences, seed)
    place = Place(out_dir, config_yaml, overwrite, tag, config.backbone.device)
    work = partial(learn, setup, initial)
    facts = place.once("hypernetwork", setup.identity(initial), work)
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    table = Table("delta", "values", "split", "metric", "value")
    for r in read_records(out_dir):
        if r["kind"] == "point":
            table.add_row(r["delta"], f"{facts['sizes'][r['delta']]:,}", r["split"], r["metric"], f"{r['value'] or 0.0:.4f}")
    output().print(table)
    output().print(
        f"{facts['k']} numbers decoded into each; {facts['trainable']:,} values trained; kept: step {facts['step']} in "
        f"{out_dir / 'subspace'}; training took {facts['train_seconds']:.1f} s",
        soft_wrap=True,
    )
