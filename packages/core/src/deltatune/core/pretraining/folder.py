"""Pre-training into a folder: what `deltatune pretrain` does."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deltatune.core.backbone import Backbone, BackboneConfig
from deltatune.core.evaluation import Scores
from deltatune.core.loading import load_backbone
from deltatune.core.pretraining.config import PretrainConfig
from deltatune.core.pretraining.loop import PretrainHooks, pretrain
from deltatune.core.pretraining.models import Precision, fresh_backbone, save_model, with_fresh_head
from deltatune.core.pretraining.probe import Probe
from deltatune.core.pretraining.texts import Texts
from deltatune.core.processes import join
from deltatune.core.resume import has_state
from deltatune.core.run import RunFolder, append_records, digest_of, plain, read_records
from deltatune.core.train import History
from deltatune.core.tune_config import TaskChoice


@dataclass(frozen=True)
class PretrainRun:
    """Everything that decides the outcome of a pre-training on a user's texts.

    Args:
        model: what is trained further; its form is taken from the objective.
        texts: what it reads.
        config: how it is trained.
        probes: tasks that are scored zero-shot on the way.
        from_scratch: start from new weights, drawn from `config.seed`.
        fresh_head: start from the model's weights and a new head for masked words (see `with_fresh_head`).
        save_as: precision of the files.
    """

    model: BackboneConfig
    texts: Texts
    config: PretrainConfig
    probes: tuple[TaskChoice, ...] = ()
    from_scratch: bool = False
    fresh_head: bool = False
    save_as: Precision = "fp32"

    def identity(self) -> dict[str, Any]:
        """All settings as plain values, and the digest of the texts; equal for runs that must end equal."""
        return {
            "model": plain(asdict(self.model)),
            "texts": {**plain(asdict(self.texts)), "digest": self.texts.digest},
            "pretrain": self.config.identity(),
            "probes": [plain(asdict(choice)) for choice in self.probes],
            "from_scratch": self.from_scratch,
            **({"fresh_head": True} if self.fresh_head else {}),
            "save_as": self.save_as,
        }

    def prepare(self) -> tuple[Backbone, list[Probe]]:
        """The model, loaded or new, and what scores it."""
        if self.from_scratch:
            backbone = fresh_backbone(self.model, self.config.seed)
        elif self.fresh_head:
            backbone = with_fresh_head(self.model, self.config.seed)
        else:
            backbone = load_backbone(self.model)
        return backbone, [Probe.of(backbone, choice.load(), choice.max_length) for choice in self.probes]


def pretrain_to(
    run: PretrainRun, out_dir: Path, about: Mapping[str, Any], config_yaml: str, overwrite: bool = False
) -> dict[str, Any]:
    """Pre-train into a folder: resumable, never half-written; returns what `run.json` says at the end.

    `out_dir` holds the model at the end, as transformers reads it; `ckpt_STEP` the snapshots, so that OUT_DIR@STEP is one too;
    `records.jsonl` the curves: of the loss, mean over `log_every` updates, and of each probe.

    Args:
        run: what to do.
        out_dir: the folder (see `deltatune.core.run`).
        about: added to `run.json`: command, tag.
        config_yaml: the command's options.
        overwrite: throw away a run that is there.
    """
    processes = join(run.model.device)
    identity = run.identity()
    folder = RunFolder(out_dir, digest_of(identity))
    if not overwrite and (there := processes.lead(folder.finished)) is not None:
        return {**there, "already_finished": True}
    backbone, probes = processes.agree(run.prepare)
    facts = {**about, **_facts(identity, backbone)}
    with processes.held(out_dir):
        if not processes.lead(lambda: folder.begin(facts, config_yaml, overwrite)):  # another process finished it meanwhile
            return {**(folder.finished() or facts), "already_finished": True}
        started = time.perf_counter()
        common = {"base": backbone.name, "seed": run.config.seed, "tag": facts.get("tag", "")}
        records = out_dir / "records.jsonl"

        def scored(step: int, found: Mapping[str, Scores]) -> None:
            rows = [{**common, "kind": "zero-shot", "task": task, "step": step, **s.numbers()} for task, s in found.items()]
            append_records(records, rows)

        def snapshot(step: int) -> None:
            save_model(backbone, out_dir / f"ckpt_{step}", run.save_as)

        hooks = PretrainHooks(on_snapshot=snapshot, on_scores=scored, state_dir=folder.state)
        resume = folder.state if has_state(folder.state) else None
        history = pretrain(run.config, backbone, run.texts, probes=probes, hooks=hooks, resume_from=resume)
        facts |= {"seconds": round(time.perf_counter() - started, 3), "train_seconds": round(history.seconds, 3)}
        return processes.lead(lambda: _keep(run, folder, facts, backbone, history, common))


def _keep(
    run: PretrainRun,
    folder: RunFolder,
    facts: Mapping[str, Any],
    backbone: Backbone,
    history: History,
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the model and the curves, and mark the run as finished."""
    save_model(backbone, folder.path, run.save_as)
    curve = list(_loss_curve(history, run.config.log_every, common))
    records = folder.path / "records.jsonl"
    before = read_records(records) if records.exists() else []
    # Steps after the last saved state were scored again; equal, since everything is a function of the step.
    last = {(row["step"], row["task"]): row for row in before if row.get("kind") == "zero-shot"}
    final = {task: row["value"] for (step, task), row in sorted(last.items()) if step == history.steps}
    ended = {"steps": history.steps, "tokens": history.tokens, "loss": curve[-1]["value"], "digest": backbone.digest}
    facts = {**facts, **ended, "zero_shot": final}
    folder.finish(facts, [*curve, *(last[key] for key in sorted(last))])
    return facts


def _facts(identity: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    device = backbone.device
    return {
        "config": identity,
        "base": {"name": backbone.name, "commit": backbone.commit, "digest": backbone.digest},
        "texts": identity["texts"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
    }


def _loss_curve(history: History, every: int, common: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for start in range(0, history.steps, every):
        end = min(start + every, history.steps)
        value = math.fsum(history.losses[start:end]) / (end - start)
        rate, norm = history.learning_rates[end - 1], history.gradient_norms[end - 1]
        yield {**common, "kind": "loss", "step": end, "value": value, "learning_rate": rate, "gradient_norm": norm}
