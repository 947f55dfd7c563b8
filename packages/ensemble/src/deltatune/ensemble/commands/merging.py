"""`merge` and `start`: write mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.peft_format import import_adapter
from deltatune.ensemble.commands.results import Kept
from deltatune.ensemble.measures import MEASURES
from deltatune.ensemble.merging import Part, Space, by_module, open_part, part_of
from deltatune.ensemble.merging import merge as merged
from deltatune.ensemble.model_files import is_model, merge_models
from deltatune.ensemble.modules import WHOLE, By, grouping
from deltatune.ensemble.sources import base_of, is_peft


def merge(
    parts: list[Path],
    out_dir: Path,
    weights: list[float] | None = None,
    space: Space = "factors",
    rank: int | None = None,
    model: str | None = None,
    other_base: bool = False,
) -> None:
    """Average deltas, or whole models, with given weights, reading one tensor of each at a time.

    Deltas are merged without their task heads and written as a delta folder; models as a model folder with the configuration and
    the tokenizer of the first.

    Args:
        parts: runs, RUN@STEP, delta folders or LoRA folders of PEFT; or model folders.
        out_dir: the folder to write.
        weights: one for each, any numbers; equal shares by default.
        space: of LoRA: factors adds the A and the B each by themselves, as published; product adds the updates B A and factors
            the sum again, to --rank.
        rank: of the new factors; that of the parts by default.
        model: the base of adapters of PEFT.
        other_base: allow deltas that were tuned on bases with different digests.
    """
    shares = weights if weights is not None else [1 / len(parts)] * len(parts) if parts else []
    if not parts or len(shares) != len(parts):
        raise DeltatuneError(f"--parts has {len(parts)} and --weights {len(shares)}; give one weight for each part")
    if all(is_model(path) for path in parts):
        count = merge_models(parts, shares, out_dir)
        output().print(f"{count} tensors of {len(parts)} models merged into {out_dir}", soft_wrap=True)
        return
    if out_dir.exists() and any(out_dir.iterdir()):
        raise DeltatuneError(f"--out_dir {out_dir} is not an empty folder; choose another")
    saved = merged(_opened(parts, model), shares, space, rank, other_base)
    checkpoint.write(out_dir, saved)
    output().print(f"{len(parts)} deltas merged into {out_dir}{_said(saved.about)}", soft_wrap=True)


def _opened(paths: list[Path], model: str | None) -> list[Part]:
    if not any(is_peft(path) for path in paths):
        return [open_part(path) for path in paths]
    backbone = base_of(paths, model, "cpu")
    return [part_of(path.name, import_adapter(path, backbone)) if is_peft(path) else open_part(path) for path in paths]


def _said(about: Mapping[str, Any]) -> str:
    if about["space"] == "factors":
        return ", each tensor by itself (LoRA as factors)"
    return f", LoRA as products; the rank loses {about['lost']:.1%} of the update's length"


def start(
    weights: Path,
    out_dir: Path,
    config_yaml: SavedConfig,
    measure: str | None = None,
    module: str | None = None,
    blockwise: bool = False,
    tuned: Path | None = None,
    space: Space = "factors",
    rank: int | None = None,
    model: str | None = None,
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Write the mixture of each target as a delta folder OUT_DIR/TARGET, for `tune --start OUT_DIR/TARGET`.

    The target's own source is left out and task heads are not merged, so tuning begins with a fresh head. Any tool that reads
    the delta folders of deltatune, or for LoRA those of PEFT after `deltatune export`, loads the result.

    Args:
        weights: a folder that the command `weights` wrote.
        out_dir: where to write.
        config_yaml: filled in by the program.
        measure: whose weights; needed if there are several.
        module: of weights by module, whose weights the whole delta is merged with, such as encoder_block_0: the published use.
        blockwise: merge each module with its own weights instead.
        tuned: of `performance`, folder of the sources tuned on the targets: these are merged, as published.
        space: of LoRA: factors adds the A and the B each by themselves, as published; product adds the updates B A and factors
            the sum again, to --rank.
        rank: of the new factors; that of the sources by default.
        model: where the sources' base is now; for adapters of PEFT and with --blockwise.
        tag: a word of yours that goes into the records.
        overwrite: throw away what is in out_dir.
    """
    facts = read_json(weights / "run.json")
    if facts.get("command") != "deltatune-ensemble weights" or facts.get("status") != "finished":
        raise DeltatuneError(f"--weights {weights}: not a finished result of `deltatune-ensemble weights`; give its --out_dir")
    name = _chosen(measure, list(facts["weights"]), "--measure")
    modules: dict[str, dict[str, dict[str, float]]] = facts["weights"][name]
    if blockwise and (module is not None or WHOLE in modules):
        raise DeltatuneError("--blockwise needs weights by block or by sublayer, and no --module; run `weights --by block`")
    shown = "blockwise" if blockwise else _chosen(module, list(modules), "--module")
    if name in MEASURES and MEASURES[name].merges == "tuned" and tuned is None:
        raise DeltatuneError(f"measure {name} merges the sources after tuning on the target; give their folder as --tuned")
    targets = list(next(iter(modules.values())))
    by: By = facts["config"]["by"]
    settings: dict[str, Any] = {"weights": facts["config_digest"], "measure": name, "module": shown, "space": space, "rank": rank}
    settings |= {"tuned": None if tuned is None else tuned.as_posix()}

    def work() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        lost: dict[str, float | None] = {}
        for target in targets:
            row = next(iter(modules.values()))[target] if blockwise else modules[shown][target]
            used = [source for source in row if blockwise or row[source]]
            places = [Path(facts["sources"][s]) if tuned is None else tuned / target / s for s in used]
            parts = [replace(part, name=source) for part, source in zip(_opened(places, model), used, strict=True)]
            shares: Any = [row[source] for source in used]
            if blockwise:
                group = grouping(base_of(places, model, "cpu"), by)
                shares = by_module({key: matrix[target] for key, matrix in modules.items()}, group, used)
            saved = merged(parts, shares, space, rank, facts["config"]["other_base"] == "True")
            checkpoint.write(out_dir / target, saved)
            lost[target] = saved.about.get("lost")
        records = [{"kind": "start", "target": t, "measure": name, "module": shown, "lost": value} for t, value in lost.items()]
        return {"targets": targets, "lost": lost}, records

    found = Kept(out_dir, config_yaml, overwrite, tag).once("start", settings, work)
    table = Table("target", "merged with", "space", "lost by the rank")
    for target in found["targets"]:
        share = found["lost"][target]
        table.add_row(target, f"{name} {shown}", space, "" if share is None else f"{share:.1%}")
    console = output()
    console.print(table)
    for target in found["targets"]:
        console.print(f"{target}: {out_dir / target}", soft_wrap=True)


def _chosen(given: str | None, there: list[str], option: str) -> str:
    if given is None and len(there) == 1:
        return there[0]
    if given not in there:
        what = "several are there" if given is None else f"{given} is not there"
        raise DeltatuneError(f"{option}: {what}; choose from {', '.join(there[:8])}{', ...' if len(there) > 8 else ''}")
    return str(given)
