"""`deltatune tune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from deltatune.core.backbone import BackboneConfig, Device
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.data import Half
from deltatune.core.delta import DeltaConfig, Head
from deltatune.core.errors import DeltatuneError
from deltatune.core.method import Method
from deltatune.core.processes import is_main
from deltatune.core.reuse import TunedRun
from deltatune.core.train import TrainConfig
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.tuning import tune_to

Tracker = Literal["tensorboard", "wandb", "mlflow"]


def tuning(
    model: str,
    task: str,
    delta: DeltaConfig,
    also: list[DeltaConfig] | None = None,
    data_dir: Path | None = None,
    train: TrainConfig = TrainConfig(save_every=100),  # noqa: B008 - frozen
    lr: float | None = None,
    init_seed: int = 0,
    data_seed: int | None = None,
    start: Path | None = None,
    other_base: bool = False,
    form: Literal["auto", "head", "prompt", "text"] = "auto",
    revision: str | None = None,
    sites: Path | None = None,
    device: Device = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    max_length: int = 256,
    max_train: int | None = None,
    max_dev: int | None = None,
    max_test: int | None = None,
    shots: int | None = None,
    sample_seed: int = 0,
    half: Half | None = None,
) -> TuneConfig:
    """The options of every command that tunes, as one configuration.

    Args:
        model: folder of a Hugging Face model, FOLDER@STEP of a `ckpt_STEP` series, or a hub name.
        task: built-in name such as glue/rte, or a YAML task file.
        delta: LoRA, Houlsby, Prefix, SoftPrompt, BitFit, Full, Modules, or Head for the head alone; its settings as
            --delta.rank 8.
        also: further deltas that act together with it, each as --also+ BitFit; settings of the last one as --also.rank 4.
        data_dir: root of task folders, or the folder that holds the task's files.
        train: steps, batch size, schedule, selection.
        lr: learning rate, short for --train.optimizer.lr; by default one that suits the delta (Full 5e-5, LoRA and Houlsby
            and BitFit 1e-3, Prefix and SoftPrompt 1e-2).
        init_seed: seed of the initial values of deltas and head.
        data_seed: seed of the order of examples and of dropout; wins over train.data_seed and train.dropout_seed.
        start: delta folder, run or RUN@STEP whose values are the start; its deltas must have the same
            settings; a head of another width or for other labels starts afresh.
        other_base: allow a start that was tuned on a base with another digest.
        form: how the task is asked: a classification head, label words at a mask, text to text, or what suits the model.
        revision: branch, tag or commit of a hub model.
        sites: YAML record of an architecture that deltatune does not know.
        device: where to compute.
        precision: bf16 computes matrix products in bfloat16, in training and scoring.
        max_length: longest input in tokens.
        max_train: use the first N training examples.
        max_dev: use the first N dev examples; not with --shots, which draws its own.
        max_test: use the first N test examples.
        shots: train on this many examples of each class, and take as many others of the training examples for development.
        sample_seed: seed of the draw of --shots.
        half: train on the first or the second half of the training examples, in their order.

    Raises:
        DeltatuneError: two learning rates.
    """
    if data_seed is not None:
        train = replace(train, data_seed=data_seed, dropout_seed=data_seed)
    if lr is not None:
        if train.optimizer.lr is not None:
            raise DeltatuneError(f"--lr {lr:g} and --train.optimizer.lr {train.optimizer.lr:g}: give one of them")
        train = replace(train, optimizer=replace(train.optimizer, lr=lr))
    lean: Literal["fp32", "bf16"] = "bf16" if "bf16" in (precision, train.precision) else "fp32"
    return TuneConfig(
        backbone=BackboneConfig(model, revision, form, device, precision, sites),
        task=TaskChoice(task, data_dir, max_length, max_train, max_dev, max_test, shots, sample_seed, half=half),
        deltas=(delta, *(also or ())),
        train=replace(train, precision=lean),
        init_seed=init_seed,
        start=start,
        other_base=other_base,
    )


def tuning_like(opened: TunedRun, options: dict[str, Any]) -> TuneConfig:
    """The configuration for tuning once more what a run tuned: its deltas; its task, length and form where `options` say nothing.

    Raises:
        DeltatuneError: no task is recorded with the run and none is given.
    """
    choice = opened.task_choice(options.get("task"), options.get("data_dir"))
    deltas = tuple(config for config in opened.saved.configs if not isinstance(config, Head)) or opened.saved.configs
    given = dict(options)
    given |= {"task": choice.task, "data_dir": choice.data_dir, "max_length": options.get("max_length") or choice.max_length}
    if given.get("form", "auto") == "auto":
        given["form"] = opened.saved.base.get("form") or "auto"
    return replace(tuning(**given, delta=deltas[0]), deltas=deltas)


@sharing(tuning)
def tune(
    out_dir: Path,
    config_yaml: SavedConfig,
    tag: str = "",
    log_with: Tracker | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Tune a delta of a pre-trained model on a task, score it on dev and test, and keep it in a folder.

    The same command run again goes on where an interrupted one stopped, and does nothing where it had finished.

    Args:
        out_dir: folder of the run.
        config_yaml: filled in by the program.
        tag: a word of yours that goes into the records.
        log_with: also log to this tracker, below out_dir. wandb and mlflow also record the names of machine and user.
        overwrite: throw away a run that is in out_dir.
    """
    tune_and_show(tuning(**options), out_dir, {"command": "deltatune tune", "tag": tag}, config_yaml, overwrite, log_with)


def tune_and_show(
    config: TuneConfig,
    out_dir: Path,
    about: Mapping[str, Any],
    config_yaml: str,
    overwrite: bool = False,
    log_with: Tracker | None = None,
    method: Method | None = None,
) -> None:
    """What every command that tunes does with its options: see `tune_to`; then print the scores."""
    with_log = _Tracker(log_with, out_dir) if log_with else None
    try:
        facts = tune_to(config, out_dir, about, config_yaml, overwrite, with_log, method)
    finally:
        if with_log is not None:
            with_log.close()
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    _show(facts, out_dir)


class _Tracker:
    """Named numbers to a tracker of accelerate; `fit` calls it on the first process of a launch only."""

    def __init__(self, kind: str, out_dir: Path) -> None:
        from accelerate.tracking import get_available_trackers

        if kind not in map(str, get_available_trackers()):
            raise DeltatuneError(f"--log_with {kind}: the package {kind} is not installed; install it, or leave the option out")
        self.kind, self.logs = kind, out_dir / "logs"
        self.accelerator: Any = None

    def __call__(self, numbers: dict[str, float], step: int) -> None:
        if self.accelerator is None:  # not before the run has claimed its folder and its processes have met
            from accelerate import Accelerator

            forget_hosts(self.logs)
            self.accelerator = Accelerator(log_with=self.kind, project_dir=str(self.logs))
            self.accelerator.init_trackers("deltatune")
        self.accelerator.log(numbers, step=step)

    def close(self) -> None:
        for tracker in self.accelerator.trackers if self.accelerator is not None else ():
            tracker.finish()
        if is_main():
            forget_hosts(self.logs)


def forget_hosts(logs: Path) -> None:
    """Rename what TensorBoard calls events.out.tfevents.TIME.HOST.PROCESS.NUMBER, so that the files name no machine.

    A host may have dots in its name. The numbers after it stay: two processes may have begun within one second.
    """
    for path in logs.rglob("events.out.tfevents.*"):
        begun, _, rest = path.name.removeprefix("events.out.tfevents.").partition(".")
        numbers = [part for part in rest.split(".")[-2:] if part.isdigit()]
        path.rename(path.with_name(".".join(["events.out.tfevents", begun, *numbers])))


def _show(facts: dict[str, Any], out_dir: Path) -> None:
    table = Table("split", "metric", "value", "standard error", "loss", "examples")
    for split, numbers in facts.get("before", {}).items():
        add_rows(table, f"{split} before", numbers)
    for split, numbers in facts["scores"].items():
        add_rows(table, split, numbers)
    console = output()
    console.print(table)
    trainable = ", ".join(f"{kind} {count:,}" for kind, count in facts["trainable"].items())
    took = f"training took {facts['train_seconds']:.1f} s"
    console.print(f"trainable: {trainable}; {took}; kept: step {facts['step']} in {out_dir}", soft_wrap=True)
    for note in facts["notes"]:
        console.print(f"note: {note}", soft_wrap=True)


def add_rows(table: Table, split: str, numbers: Mapping[str, Any]) -> None:
    """The row of a split in a table of scores, and below it one for each further metric of the task."""
    table.add_row(split, *row(numbers))
    for metric, value in numbers.get("extra", {}).items():
        table.add_row("", metric, _shown(value))


def row(numbers: Mapping[str, Any]) -> list[str]:
    """The cells that tables of scores share: metric, value, standard error, loss, examples."""
    return [numbers["metric"], *(_shown(numbers[name]) for name in ("value", "stderr", "loss")), f"{numbers['n']:,}"]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
