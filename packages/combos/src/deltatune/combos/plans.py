"""One run of a combination, from its plan to its folder: zero-shot, tuned together, or stage after stage."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deltatune.combos.asking import template_text, texts_of
from deltatune.combos.combination import Combination, Sizes
from deltatune.combos.contexts import Demonstrations, asked_with
from deltatune.combos.methods import Combined, Dropout, RegressionLoss
from deltatune.core.delta import Tuned, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate
from deltatune.core.files import held, replacing
from deltatune.core.formats import Format, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.run import RunFolder, digest_of, read_records
from deltatune.core.run_facts import facts_of, records_of
from deltatune.core.train import History
from deltatune.core.tune_config import TuneConfig
from deltatune.core.tuning import tune_to

Handover = Literal["best", "last"]


@dataclass(frozen=True)
class Plan:
    """Everything that decides the outcome of one run.

    Args:
        combination: what is tuned.
        config: model, examples, training; without deltas, and asking the task as the task itself does.
        template: manual, none, or a template of the user's.
        sizes: of the deltas.
        dropout: see `Combined`.
        regression_loss: see `Combined`.
        rates: learning rate of each stage of a sequence; None takes that of `config` for all.
        handover: a stage starts from the best or from the last weights of the one before.
        train_score: score the training examples as well.
        demos: see `Combined`.
    """

    combination: Combination
    config: TuneConfig
    template: str = "manual"
    sizes: Sizes = Sizes()  # noqa: RUF009 - frozen
    dropout: Dropout = "on"
    regression_loss: RegressionLoss = "kl"
    rates: tuple[float, ...] | None = None
    handover: Handover = "last"
    train_score: bool = True
    demos: Demonstrations | None = None

    def __post_init__(self) -> None:
        """Refuse what could not act."""
        stages = len(self.combination.stages)
        if self.rates is not None and len(self.rates) != stages:
            raise DeltatuneError(
                f"--rates has {len(self.rates)} rates for the {stages} stages of {self.combination}; give one each"
            )
        if stages > 1:
            train = self.config.train
            for name, value in (("epochs", train.epochs), ("early_stopping", train.early_stopping)):
                if value is not None:
                    raise DeltatuneError(
                        f"--train.{name} {value}: the stages of a sequence count updates; give --train.steps alone"
                    )
        if self.dropout == "reference" and self.config.train.token_budget is not None:
            raise DeltatuneError("--dropout reference does not go with --train.token_budget; leave one of them out")

    @property
    def in_template(self) -> bool:
        """Whether the task is asked by a template, which then shows the soft prompt."""
        return self.config.backbone.form == "prompt"

    def method(self, number: int, start: Path | None = None) -> Combined:
        """Stage `number` (from 1)."""
        stage = self.combination.stages[number - 1]
        template = self.template if self.in_template else ""
        switches = (self.dropout, self.regression_loss, self.train_score)
        so_far = str(replace(self.combination, stages=self.combination.stages[:number]))
        return Combined(so_far, template, stage, start, *switches, self.demos)

    def stage_config(self, number: int) -> TuneConfig:
        """Configuration of stage `number` (from 1), or of the zero-shot run (0)."""
        methods = self.combination.upto(number)
        config = self.config
        if self.in_template:
            task = replace(config.task, shots=None, max_train=1, max_dev=1, max_test=1).load()
            place = self.sizes.prompt_place if "prompt" in methods else None
            config = replace(
                config, task=replace(config.task, template=template_text(task.config, texts_of(task), self.template, place))
            )
        train = config.train
        if self.rates is not None and number:
            train = replace(train, optimizer=replace(train.optimizer, lr=self.rates[number - 1]))
        if len(self.combination.stages) > 1:
            kept = () if isinstance(train.snapshots, int) or train.snapshots is None else train.snapshots
            train = replace(train, snapshots=tuple(sorted({*kept, train.steps})))
        if self.dropout == "reference":
            train = replace(train, save_every=None)  # which updates drop out depends on when the first evaluation was
        deltas = tuple(self.sizes.delta(method, self.in_template) for method in methods)
        return replace(config, deltas=deltas, train=train)

    def settings(self) -> dict[str, Any]:
        """Plain values that decide the outcome."""
        numbers = range(1, len(self.combination.stages) + 1) if self.combination.stages else (0,)
        stages = [self.stage_config(number) for number in numbers]
        own: dict[str, Any] = {"methods": str(self.combination), "template": self.template if self.in_template else ""}
        own |= {"dropout": self.dropout}
        own |= {"regression_loss": self.regression_loss, "handover": self.handover}
        own |= {"demonstrations": self.demos.settings()} if self.demos is not None else {}
        return own | {"stages": [stage.identity() | {"learning_rate": _rate(stage)} for stage in stages]}


def _rate(config: TuneConfig) -> float | None:
    return config.learning_rate if config.deltas else None


def carry_out(
    plan: Plan, out_dir: Path, about: Mapping[str, Any], config_yaml: str, overwrite: bool = False, progress: bool = True,
    begun: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Do what is planned, in a folder: resumable, never half-written; returns what `run.json` says at the end.

    Args:
        plan: what to do.
        out_dir: the folder.
        about: added to `run.json`: command, tag.
        config_yaml: the command's options.
        overwrite: throw away a run that is there.
        progress: show how far it is.
        begun: of a sequence, a finished first stage with the same settings, as of another order that begins alike; it is copied
            and not tuned again.
    """
    if not plan.combination.stages:
        return _zero_shot(plan, out_dir, about, config_yaml, overwrite)
    if len(plan.combination.stages) == 1:
        return tune_to(plan.stage_config(1), out_dir, about, config_yaml, overwrite, None, plan.method(1), progress)
    return _sequence(plan, out_dir, about, config_yaml, overwrite, progress, begun)


def _zero_shot(plan: Plan, out_dir: Path, about: Mapping[str, Any], config_yaml: str, overwrite: bool) -> dict[str, Any]:
    """Score the untouched model."""
    config = plan.stage_config(0)
    if config.backbone.form == "head":
        raise DeltatuneError("--methods none asks the untouched model, whose classification head is random; give --form prompt")
    settings: dict[str, Any] = {"methods": "none", "template": plan.template, "stage": ""}
    settings |= {"demonstrations": plan.demos.settings()} if plan.demos is not None else {}
    identity = config.identity() | {"method": settings}
    folder = RunFolder(out_dir, digest_of(identity))
    if not overwrite and (there := folder.finished()) is not None:
        return {**there, "already_finished": True}
    tuned, form, task = untouched(config)
    form = form if plan.demos is None else asked_with(form, plan.demos)
    facts = {**about, **facts_of(config, tuned, task, ()), "before": {}, "config": identity | {"learning_rate": None}}
    with held(out_dir):
        if not folder.begin(facts, config_yaml, overwrite):
            return {**(folder.finished() or facts), "already_finished": True}
        began = time.perf_counter()
        parts = {"dev": task.dev, "test": task.test}
        final = {name: evaluate(tuned, form, part).numbers() for name, part in parts.items() if part}
        train = {"train": evaluate(tuned, form, task.train).numbers()} if plan.train_score else {}
        facts |= {
            "found": train,
            "seconds": round(time.perf_counter() - began, 3),
            "train_seconds": 0.0,
            "step": 0,
            "scores": final,
        }
        folder.finish(facts, list(records_of(config, facts, History(), final, 0)))
        return facts


def untouched(config: TuneConfig) -> tuple[Tuned, Format, Any]:
    """The model without deltas, how it is asked, and the task."""
    task = config.task.load()
    backbone = load_backbone(config.backbone, num_labels=1 if task.regression else max(1, len(task.labels)))
    if backbone.form != "prompt":
        raise DeltatuneError(f"model {backbone.name} has no scores of words at a mask, so it cannot be asked without tuning")
    return attach(backbone, head=False), build_format(backbone, task, config.task.max_length), task


def stage_folder(plan: Plan, out_dir: Path, number: int) -> Path:
    """Where stage `number` (from 1) of a sequence is."""
    return out_dir / f"{number}-{'+'.join(plan.combination.stages[number - 1])}"


def _sequence(
    plan: Plan, out_dir: Path, about: Mapping[str, Any], config_yaml: str, overwrite: bool, progress: bool, begun: Path | None
) -> dict[str, Any]:
    """Tune stage after stage, each in a folder of its own."""
    settings = plan.settings()
    folder = RunFolder(out_dir, digest_of({**settings, "train_score": plan.train_score}))
    first = plan.stage_config(1).identity() | {"method": settings, "learning_rate": _rate(plan.stage_config(1))}
    facts: dict[str, Any] = {**about, "config": first, "stages": []}
    if not overwrite and (there := folder.finished()) is not None:
        return {**there, "already_finished": True}
    with held(out_dir):
        if not folder.begin(facts, config_yaml, overwrite):
            return {**(folder.finished() or facts), "already_finished": True}
        if begun is not None and not stage_folder(plan, out_dir, 1).exists():
            with replacing(stage_folder(plan, out_dir, 1)) as target:
                shutil.copytree(begun, target)
        records: list[dict[str, Any]] = []
        start: Path | None = None
        for number in range(1, len(plan.combination.stages) + 1):
            path, config = stage_folder(plan, out_dir, number), plan.stage_config(number)
            found = tune_to(config, path, about, config_yaml, False, None, plan.method(number, start), progress)
            start = path if plan.handover == "best" else Path(f"{path}@{config.train.steps}")
            records += _of_stage(number, (number - 1) * config.train.steps, path)
            facts["stages"].append(_summary(plan, number, found, records))
            facts |= {name: found[name] for name in ("base", "data", "notes", "device", "found") if name in found}
        facts |= {"scores": found["scores"], "step": (number - 1) * config.train.steps + found["step"], "trainable": {}}
        for stage in facts["stages"]:  # biases of adapters are trained in two stages
            facts["trainable"] |= {kind: max(n, facts["trainable"].get(kind, 0)) for kind, n in stage["trainable"].items()}
        facts |= {name: sum(stage[name] for stage in facts["stages"]) for name in ("seconds", "train_seconds")}
        with replacing(out_dir / "delta") as target:
            shutil.copytree(path / "delta", target)
        folder.finish(facts, records)
        return facts


def _of_stage(number: int, offset: int, path: Path) -> list[dict[str, Any]]:
    """The records of a stage, its updates counted from the beginning of the sequence."""
    return [{**record, "stage": number, "step": offset + record["step"]} for record in read_records(path)]


def _summary(plan: Plan, number: int, found: Mapping[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    last = [record["value"] for record in records if record["kind"] == "curve" and record["stage"] == number]
    trained = {kind: count for kind, count in found["trainable"].items() if count}
    own: dict[str, Any] = {"methods": "+".join(plan.combination.stages[number - 1]), "step": found["step"], "trainable": trained}
    own |= {"scores": found["scores"], "last_dev": last[-1] if last else None}
    return own | {name: found[name] for name in ("seconds", "train_seconds")}


def gap_of(facts: Mapping[str, Any]) -> float | None:
    """Training score minus dev score of a finished run; None where one is missing."""
    train, dev = (facts.get(part, {}).get(split, {}).get("value") for part, split in (("found", "train"), ("scores", "dev")))
    return None if train is None or dev is None else float(train) - float(dev)
