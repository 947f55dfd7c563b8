"""`sweep`: the published search over alpha, beta and temperature, decided on dev."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import tuning, tuning_like
from deltatune.core.delta import DeltaConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.metrics import higher_is_better
from deltatune.core.reuse import open_run
from deltatune.core.tune_config import TuneConfig
from deltatune.core.tuning import tune_to
from deltatune.recyclable.commands.results import PROGRAM, Found, Kept
from deltatune.recyclable.distill import Distillation, Reduction
from deltatune.recyclable.methods import Recycle, identity
from deltatune.recyclable.recycle import HeadInit, Recycling

ALPHAS, TEMPERATURES, BETAS, BETAS_FROM_START = (
    (0.9, 0.7),
    (5.0, 10.0, 20.0),
    (0.0, 5.0, 10.0, 50.0, 100.0),
    (0.0, 1.0, 5.0, 10.0, 50.0, 100.0),
)


@dataclass(frozen=True)
class Setting:
    """One setting of the search with its scores, one a seed; `test` is read for the chosen one alone."""

    losses: Distillation
    folders: tuple[Path, ...]
    dev: tuple[float, ...]
    test: tuple[float | None, ...]
    metric: str

    @property
    def name(self) -> str:
        """As in the folders' names."""
        return name_of(self.losses)


def name_of(losses: Distillation) -> str:
    """alpha, beta and temperature as part of a file name."""
    return f"a{losses.alpha:g}_b{losses.beta:g}_T{losses.temperature:g}"


def choose(settings: Sequence[Setting]) -> Setting:
    """The best mean dev score over the seeds, the first of equal ones."""
    sign = 1 if higher_is_better(settings[0].metric) else -1
    return max(settings, key=lambda setting: sign * statistics.fmean(setting.dev))


@sharing(tuning, without=("start", "other_base", "init_seed", "data_seed"), optional=True)
def sweep(
    teacher: Path,
    model: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    delta: DeltaConfig | None = None,
    also: list[DeltaConfig] | None = None,
    alphas: list[float] | None = None,
    betas: list[float] | None = None,
    temperatures: list[float] | None = None,
    seeds: list[int] | None = None,
    from_start: bool = False,
    head_init: HeadInit = "copy",
    reduction: Reduction = "element_mean",
    max_length: int | None = None,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Distil with every setting of alpha, beta and temperature and every seed; choose on dev, report test of the chosen one.

    The runs are below out_dir and go on where an interrupted search stopped. In --teacher and --data_dir, {seed} stands for the
    seed, for teachers and few-shot samples of their own.

    Args:
        teacher: the outdated run, or RUN@STEP for a snapshot.
        model: the upgraded base.
        out_dir: folder of the search.
        config_yaml: filled in by the program.
        delta: what is tuned; the teacher's delta by default.
        also: further deltas that act together with it.
        alphas: weights of the distillation term; the published 0.9 and 0.7 by default.
        betas: weights of the layer-wise term; the published 0, 5, 10, 50, 100 by default, with --from_start also 1.
        temperatures: the published 5, 10, 20 by default.
        seeds: of initial values, order and dropout together; the published 20, 30, 40 by default.
        from_start: also start from the teacher's delta (the combined method).
        head_init: with from_start, the task head: copy, fresh or arithmetic.
        reduction: element_mean, as published, or batch_mean.
        max_length: longest input in tokens; that of the teacher's run by default.
        tag: a word of yours that goes into the records.
        overwrite: throw away the search that is in out_dir.
    """
    drawn = list(dict.fromkeys(seeds or (20, 30, 40)))
    teachers = {seed: seeded(teacher, seed) for seed in drawn}
    config = tuning_like(open_run(teachers[drawn[0]]), {"model": model, "max_length": max_length, **options})
    if delta is not None:
        config = replace(config, deltas=(delta, *(also or ())))
    grid = [
        Distillation(alpha, beta, temperature, reduction)
        for alpha, beta, temperature in product(
            alphas or ALPHAS, betas or (BETAS_FROM_START if from_start else BETAS), temperatures or TEMPERATURES
        )
    ]
    base = Recycle(
        start=teacher if from_start else None, how=Recycling(head_init), teacher=teacher, device=config.backbone.device
    )
    settings = {
        "config": _identity(config),
        "teachers": [identity(path) for path in teachers.values()],
        "from_start": from_start,
        "head_init": head_init,
    }
    settings |= {"grid": [vars(losses) for losses in grid], "seeds": drawn}

    def work() -> Found:
        found = list(_runs(config, base, grid, drawn, (out_dir, config_yaml, tag)))
        if any(not setting.dev for setting in found):
            raise DeltatuneError(f"task {config.task.task} has no dev examples, so there is nothing to choose by")
        chosen = choose(found)
        numbers = {"tried": len(found), "seeds": drawn, "chosen": vars(chosen.losses), "metric": chosen.metric}
        numbers |= {"dev": list(chosen.dev), "test": list(chosen.test)}
        return numbers | {"settings": [{**vars(s.losses), "dev": list(s.dev)} for s in found]}, list(
            _records(found, chosen, drawn)
        )

    facts = Kept(out_dir, config_yaml, overwrite, tag).once("sweep", settings, work)
    _show(facts)


def seeded(path: Path, seed: int) -> Path:
    """`path` with the seed in place of {seed}."""
    return Path(str(path).replace("{seed}", str(seed)))


def _identity(config: TuneConfig) -> dict[str, Any]:
    return {name: value for name, value in config.identity().items() if name != "init_seed"}


def _runs(
    config: TuneConfig, base: Recycle, grid: Sequence[Distillation], seeds: Sequence[int], where: tuple[Path, str, str]
) -> Iterator[Setting]:
    """Tune every setting with every seed, each in a folder of its own."""
    out_dir, config_yaml, tag = where
    for losses in grid:
        folders = [out_dir / "runs" / f"{name_of(losses)}_seed{seed}" for seed in seeds]
        facts = []
        for seed, folder in zip(seeds, folders, strict=True):
            train = replace(config.train, data_seed=seed, dropout_seed=seed)
            task = replace(config.task, data_dir=config.task.data_dir and seeded(config.task.data_dir, seed))
            one = replace(config, task=task, init_seed=seed, train=train)
            taught = base.teacher and seeded(base.teacher, seed)
            method = replace(base, teacher=taught, start=base.start and taught, distillation=losses, init_seed=seed)
            about = {"command": f"{PROGRAM} sweep", "tag": tag}
            facts.append(tune_to(one, folder, about, config_yaml, method=method)["scores"])
        dev = tuple(scores["dev"]["value"] for scores in facts if "dev" in scores)
        test = tuple(scores["test"]["value"] if "test" in scores else None for scores in facts)
        metric = next((scores["dev"]["metric"] for scores in facts if "dev" in scores), "")
        yield Setting(losses, tuple(folders), dev, test, metric)


def _records(found: Sequence[Setting], chosen: Setting, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    for setting in found:
        common = {**vars(setting.losses), "metric": setting.metric, "tried": len(found)}
        for seed, dev in zip(seeds, setting.dev, strict=True):
            yield {**common, "kind": "setting", "split": "dev", "seed": seed, "value": dev}
        if setting is chosen:
            for seed, test in zip(seeds, setting.test, strict=True):
                yield {**common, "kind": "chosen", "split": "test", "seed": seed, "value": test}


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{statistics.fmean(known):.4f}" + (f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else "")


def _show(facts: dict[str, Any]) -> None:
    table = Table("alpha", "beta", "temperature", f"dev {facts['metric']}", f"test {facts['metric']}")
    for setting in facts["settings"]:
        own = {name: setting[name] for name in ("alpha", "beta", "temperature", "reduction")}
        test = _spread(facts["test"]) if own == facts["chosen"] else ""
        table.add_row(*(f"{own[name]:g}" for name in ("alpha", "beta", "temperature")), _spread(setting["dev"]), test)
    console = output()
    console.print(table)
    seeds = ", ".join(map(str, facts["seeds"]))
    console.print(f"{facts['tried']} settings tried with seeds {seeds}; chosen on dev: {facts['chosen']}", soft_wrap=True)
