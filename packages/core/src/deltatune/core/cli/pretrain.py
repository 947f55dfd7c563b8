"""`deltatune pretrain`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from deltatune.core.backbone import BackboneConfig, Device
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.data import short_name
from deltatune.core.errors import DeltatuneError
from deltatune.core.optim import OptimizerConfig
from deltatune.core.pretraining import MaskedLM, PretrainConfig, PretrainRun, SpanCorruption, Texts, objective_kind, pretrain_to
from deltatune.core.tune_config import TaskChoice


def pretrain(
    model: str,
    texts: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    objective: Literal["auto", "mlm", "span"] = "auto",
    mlm: MaskedLM = MaskedLM(),  # noqa: B008 - frozen
    span: SpanCorruption = SpanCorruption(),  # noqa: B008 - frozen
    from_scratch: bool = False,
    fresh_head: bool = False,
    steps: int = 1000,
    batch_size: int = 16,
    batch_tokens: int | None = None,
    accumulation: int = 1,
    lr: float | None = None,
    optimizer: OptimizerConfig | None = None,
    seed: int = 0,
    snapshots: int | tuple[int, ...] | None = None,
    probe: list[str] | str | None = None,
    probe_every: int | None = None,
    probe_examples: int | None = None,
    data_dir: Path | None = None,
    text_column: str = "text",
    texts_revision: str | None = None,
    revision: str | None = None,
    sites: Path | None = None,
    device: Device = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    save_as: Literal["fp32", "fp16"] = "fp32",
    log_every: int = 50,
    save_every: int = 100,
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Go on with the pre-training of a model on texts, or begin it, and keep the model in a folder.

    Other commands load the result as `--model OUT_DIR`, a snapshot as `--model OUT_DIR@STEP`. The same command run again goes on
    where an interrupted one stopped, and does nothing where it had finished.

    Args:
        model: folder of a Hugging Face model, FOLDER@STEP of a `ckpt_STEP` series, or a hub name.
        texts: .txt file (each line a document), .jsonl file, folder of both, or a data set on the hub (its split train).
        out_dir: folder of the run and of the model.
        config_yaml: filled in by the program.
        objective: mlm (masked language modelling), span (span corruption), or auto (span for encoder-decoders, mlm for others).
        mlm: settings of masked language modelling.
        span: settings of span corruption.
        from_scratch: begin with new weights; the model's folder needs config.json and the tokenizer only.
        fresh_head: begin with a new head for masked words, for an encoder that was saved without one.
        steps: updates.
        batch_size: rows in one forward pass.
        batch_tokens: tokens, padding included, in one forward pass; takes the place of batch_size.
        accumulation: forward passes per update.
        lr: highest learning rate, short for --optimizer.lr; by default 1e-4 (mlm, AdamW) or 1e-3 relative to the size of each
            tensor (span, Adafactor), with a warm-up of 6% and a linear decay.
        optimizer: update rule, rate and schedule in place of that default.
        seed: of new weights, the order of rows, what is hidden, and dropout.
        snapshots: updates between snapshots, or a list of the updates to keep.
        probe: task, or list of tasks, that is scored zero-shot on the way, with its template and label words.
        probe_every: updates between those scores; by default before the first update and at the end.
        probe_examples: use the first N dev (or test) examples of each.
        data_dir: root of the probes' task folders, or the folder that holds their files.
        text_column: key of the text in a .jsonl line, or name of the hub's column.
        texts_revision: branch, tag or commit of a data set on the hub.
        revision: branch, tag or commit of a hub model.
        sites: YAML record of an architecture that deltatune does not know.
        device: where to compute.
        precision: bf16 computes in bfloat16; the weights are kept in fp32.
        save_as: precision of the weights in the files.
        log_every: updates between log lines, and between the points of the loss curve.
        save_every: updates between saved states to resume from.
        tag: a word of yours that goes into the records.
        overwrite: throw away a run that is in out_dir.
    """
    if from_scratch and fresh_head:
        raise DeltatuneError("--from_scratch and --fresh_head: new weights include the head; give one of them")
    source = BackboneConfig(model, revision, "auto", device, "fp32", sites)
    kind = objective_kind(source) if objective == "auto" else objective
    config = PretrainConfig(
        mlm if kind == "mlm" else span,
        steps=steps,
        optimizer=optimizer,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        accumulation=accumulation,
        snapshots=snapshots,
        probe_every=probe_every,
        seed=seed,
        precision=precision,
        log_every=log_every,
        save_every=save_every,
    )
    if lr is not None:
        if optimizer is not None and optimizer.lr is not None:
            raise DeltatuneError(f"--lr {lr:g} and --optimizer.lr {optimizer.lr:g}: give one of them")
        config = replace(config, optimizer=replace(optimizer or config.train.optimizer, lr=lr))
    names = [probe] if isinstance(probe, str) else probe or []
    tasks = (TaskChoice(task, data_dir, max_dev=probe_examples, max_test=probe_examples) for task in names)
    run = PretrainRun(
        replace(source, form="prompt" if kind == "mlm" else "text"),
        Texts(texts, text_column, texts_revision),
        config,
        probes=tuple(tasks),
        from_scratch=from_scratch,
        fresh_head=fresh_head,
        save_as=save_as,
    )
    facts = pretrain_to(run, out_dir, {"command": "deltatune pretrain", "tag": tag}, config_yaml, overwrite)
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    _show(facts, out_dir)


def _show(facts: dict[str, Any], out_dir: Path) -> None:
    console = output()
    if facts["zero_shot"]:
        table = Table("task", "zero-shot")
        for task, value in facts["zero_shot"].items():
            table.add_row(short_name(task), "" if value is None else f"{value:.4f}")
        console.print(table)
    took = f"{facts['steps']:,} updates, {facts['tokens']:,} tokens in {facts['train_seconds']:.1f} s"
    console.print(f"loss {facts['loss']:.4f} after {took}; the model is in {out_dir}", soft_wrap=True)
