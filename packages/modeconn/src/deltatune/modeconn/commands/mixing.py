"""`mix`: learn how much of each of two models every part should have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.cli.output import output
from deltatune.core.cli.results import Found, Kept, show_scores
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import tuning
from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import higher_is_better
from deltatune.core.tuning import tune_to
from deltatune.modeconn.commands.bending import OF_THE_ENDS
from deltatune.modeconn.commands.shown import PROGRAM
from deltatune.modeconn.endpoints import identity, in_one_space, require_runs, transformed, tuned_like
from deltatune.modeconn.mixing import By
from deltatune.modeconn.mixture import Mixture
from deltatune.modeconn.scenes import Where


@sharing(tuning, without=(*OF_THE_ENDS, "lr"), optional=True)
def mix(
    left: Path,
    right: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    by: By = "block",
    lrs: list[float] | None = None,
    begin_std: float = 10.0,
    begin_seed: int = 0,
    align: bool = False,
    model: str | None = None,
    max_length: int | None = None,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Learn a mixture of two tuned models: each block, layer or tensor has a share of its own, trained on the task.

    Every learning rate is a run below out_dir; the best on dev is kept as `delta`, with the share of the left end in each group.

    Args:
        left: a run, RUN@STEP, a delta folder, an adapter folder of PEFT, or a Hugging Face model folder.
        right: another of the same kind and settings.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        by: groups of tensors: the blocks of the model, its sub-layers, or single tensors (weight).
        lrs: learning rates to try; the published 0.1 and 0.05 by default.
        begin_std: the weights w of the shares sigma(w) start at N(0, this); with the published 10 nearly every share is 0 or 1 at
            first, with 0.1 all are near one half.
        begin_seed: of this start.
        align: first undo the symmetries of the right end (see `walk`).
        model: where the base is now, if not where the left run found it.
        max_length: longest input in tokens; that of the left run by default.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    given = require_runs((left, right), model)
    runs = transformed(given, align, False)
    config = tuned_like(runs[0], model, {"max_length": max_length, **options})
    rates = lrs or ([config.train.optimizer.lr] if config.train.optimizer.lr else [0.1, 0.05])
    ids = [identity(run) for run in given]
    ends = in_one_space(runs, Where((model, model), options.get("device") or "auto", False))
    settings = {
        "config": config.identity(),
        "rates": rates,
        **Mixture(ends[0], ends[1], ids, by, begin_std, begin_seed).settings(),
    }

    def work() -> Found:
        runs = []
        for rate in rates:
            one = replace(config, train=replace(config.train, optimizer=replace(config.train.optimizer, lr=rate)))
            folder, method = out_dir / "runs" / f"lr_{rate:g}", Mixture(ends[0], ends[1], ids, by, begin_std, begin_seed)
            facts = tune_to(one, folder, {"command": f"{PROGRAM} mix", "tag": tag}, config_yaml, method=method)
            if "dev" not in facts["scores"]:
                raise DeltatuneError(f"task {config.task.task} has no dev examples, so there is nothing to choose by")
            runs.append({"lr": rate, "folder": folder, "scores": facts["scores"], "shares": facts["found"]["share_of_left"]})
        sign = 1 if higher_is_better(runs[0]["scores"]["dev"]["metric"]) else -1
        best = max(runs, key=lambda run: sign * run["scores"]["dev"]["value"])
        checkpoint.write(out_dir / "delta", checkpoint.read(best["folder"]))
        common = {"by": by, "task": config.task.task, "tried": len(runs)}
        records = [{**common, "kind": "setting", "lr": run["lr"], "split": "dev", **run["scores"]["dev"]} for run in runs]
        records += [{**common, "kind": "chosen", "lr": best["lr"], "split": split, **s} for split, s in best["scores"].items()]
        return {"lr": best["lr"], "tried": len(runs), "scores": best["scores"], "share_of_left": best["shares"]}, records

    facts = Kept(out_dir, config_yaml, overwrite, tag, PROGRAM).once("mix", settings, work)
    show_scores(facts["scores"].items())
    table = Table("group", "share of left")
    for name, share in facts["share_of_left"].items():
        table.add_row(name, f"{share:.3f}")
    output().print(table)
    output().print(f"learning rates tried: {facts['tried']}; chosen on dev: {facts['lr']:g}; kept in {out_dir}", soft_wrap=True)
