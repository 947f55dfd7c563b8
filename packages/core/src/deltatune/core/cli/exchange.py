"""`deltatune export` and `deltatune import`: exchange with PEFT, and published `.pt` files."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from deltatune.core import checkpoint, legacy, peft_format
from deltatune.core.backbone import BackboneConfig
from deltatune.core.card import model_card
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.tune import tune
from deltatune.core.cli.words import changed_options, words_of
from deltatune.core.data import builtin_task, read_task_file
from deltatune.core.delta import Prefix
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import held, read_json, read_text
from deltatune.core.loading import load_backbone
from deltatune.core.reuse import TunedRun, open_run
from deltatune.core.run import RunFolder, digest_of, plain


def export(run: Path, out_dir: Path) -> None:
    """Write a delta as an adapter folder that PEFT loads with the same outputs, with a model card of what is recorded.

    LoRA, a SoftPrompt at the start and a Prefix (positions: after) of a single stack can be written. PEFT does not compute
    the others, or computes them differently; the command then says what differs and writes nothing.

    Args:
        run: a run, RUN@STEP or a delta folder.
        out_dir: the adapter folder.
    """
    opened = open_run(run)
    prefix = any(isinstance(config, Prefix) for config in opened.saved.configs)
    backbone = opened.backbone(device="cpu", precision="fp32") if prefix else None
    peft_format.export(opened.saved, out_dir, backbone, model_card(opened, _command(opened)))
    output().print(f"PEFT adapter written to {out_dir}", soft_wrap=True)


def _command(opened: TunedRun) -> list[str]:
    """The words that made a run of `deltatune tune`; none of other runs."""
    about, options = opened.folder / "run.json", opened.folder / "config.yaml"
    if not options.is_file() or not about.is_file() or read_json(about).get("command") != "deltatune tune":
        return []
    return ["deltatune", "tune", *words_of(changed_options(tune, yaml.safe_load(read_text(options)) or {}))]


def import_(
    adapter: Path,
    model: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    task: str | None = None,
    data_dir: Path | None = None,
    form: Literal["auto", "head", "prompt", "text"] = "auto",
    revision: str | None = None,
    sites: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Take an adapter of PEFT, or a `.pt` file of the published programs, as a run of deltatune.

    Args:
        adapter: a PEFT folder, or a `.pt` file (read weights-only; its pickled settings stay inert).
        model: the base model that it belongs to.
        out_dir: folder of the run to write.
        config_yaml: filled in by the program.
        task: what it was tuned on, recorded for `evaluate`; the labels must be in the order of its head.
        data_dir: where the task's files are.
        form: how the task is asked.
        revision: branch, tag or commit of a hub model.
        sites: YAML record of an architecture that deltatune does not know.
        overwrite: throw away a run that is in out_dir.
    """
    if not adapter.exists():
        raise DeltatuneError(f"--adapter {adapter}: no such file or folder")
    labels = peft_format.num_labels(adapter)
    config = BackboneConfig(model, revision, form, "cpu", "fp32", sites)
    backbone = load_backbone(config, num_labels=labels)
    saved = legacy.read_published(adapter, backbone) if adapter.is_file() else peft_format.import_adapter(adapter, backbone)
    described = {} if task is None else {"task": task, "labels": list(_labels(task))}
    settings: dict[str, Any] = {
        "backbone": {"model": model, "revision": revision, "form": backbone.form, "precision": "fp32"}
        | {"sites": sites.as_posix() if sites else None},
        "task": {"task": task, "data_dir": data_dir.as_posix() if data_dir else None, "max_length": 256},
        "deltas": [delta.describe() for delta in saved.configs],
        "adapter": adapter.as_posix(),
    }
    folder = RunFolder(out_dir, digest_of(settings))
    facts = {"command": "deltatune import", "config": settings, "base": saved.base}
    with held(out_dir):
        if not folder.begin(facts, config_yaml, overwrite):
            output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
            return
        record = plain(asdict(backbone.sites)) if sites else None
        kept = {"backbone": settings["backbone"] | {"sites": record}, "task": settings["task"]}
        known = {key: value for key, value in described.items() if value} | {"settings": kept}
        checkpoint.write(out_dir / "delta", replace(saved, about={**saved.about, **known}))
        folder.finish(facts, [])
    named = ", ".join(type(delta).__name__ for delta in saved.configs)
    output().print(f"{named} taken from {adapter} into {out_dir}", soft_wrap=True)
    if saved.about.get("imported", {}).get("other_base_name"):
        other = saved.about["imported"]["base_model_name_or_path"]
        output().print(f"note: the adapter names the base {other}; names and shapes fit {model}", soft_wrap=True)


def _labels(task: str) -> tuple[str, ...]:
    """The labels that the task's description lists; empty where they come from its files."""
    config = read_task_file(Path(task)) if task.endswith((".yaml", ".yml")) else builtin_task(task)
    return config.labels or ()
