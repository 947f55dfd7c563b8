"""`test-all`: every source on every target without tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.evaluation import evaluate
from deltatune.core.files import read_json, write_json
from deltatune.core.run import digest_of
from deltatune.ensemble.bench import Bench, Prepared
from deltatune.ensemble.commands.results import Kept, choice_of, data
from deltatune.ensemble.matrix import write_published
from deltatune.ensemble.plots import heat_map
from deltatune.ensemble.scoring import Budget
from deltatune.ensemble.taxonomy import named


@sharing(data)
def score_all(
    sources: Path,
    tasks: list[str],
    out_dir: Path,
    config_yaml: SavedConfig,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Score every source on dev and test of every target, without tuning.

    Where the form has a task head that a source cannot bring, one is fitted to the target's training examples (see --head); the
    delta itself is never trained. What was scored is kept in OUT_DIR-cache.

    Args:
        sources: folder of runs, delta folders or LoRA folders of PEFT.
        tasks: the targets, names or YAML files; '[qa]' for the paper's 32 tasks.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    targets = named(tasks)
    bench = Bench(sources, options["model"], options["device"], options["head"], options["other_base"])
    prepared = bench.prepare(next(iter(targets)), choice_of(next(iter(targets.values())), options), Budget("train"))
    digests = {name: source.digest for name, source in prepared.sources.items()}
    settings: dict[str, Any] = {"sources": digests, "tasks": targets, "base": prepared.target.tuned.backbone.digest}
    settings |= {name: str(value) for name, value in options.items() if name not in ("device", "model")}
    cache = out_dir.with_name(f"{out_dir.name}-cache")

    def work() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        records: list[dict[str, Any]] = []
        scores: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
        for name, task in targets.items():
            ready = bench.prepare(name, choice_of(task, options), Budget("train"))
            for source in ready.sources:
                found = _scored(ready, source, cache)
                scores.setdefault(name, {})[source] = found
                records += [{"kind": "zero-shot", "target": name, "source": source, "split": split, **numbers}
                            for split, numbers in found.items()]  # fmt: skip
        for split in ("dev", "test"):
            values = {t: {s: cell[split]["value"] for s, cell in row.items() if split in cell} for t, row in scores.items()}
            if all(values.values()):
                write_published(out_dir / f"zero_result_{split}.tsv", values)
                heat_map(out_dir / f"zero_result_{split}.png", values, list(ready.sources), f"score on {split} without tuning")
        return {"scores": scores, "notes": list(ready.notes)}, records

    facts = Kept(out_dir, config_yaml, overwrite, tag).once("test-all", settings, work)
    table = Table("target", "source", "metric", "dev", "test")
    for name, row in facts["scores"].items():
        for source, cell in row.items():
            values = [
                f"{cell[split]['value']:.4f}" if split in cell and cell[split]["value"] is not None else ""
                for split in ("dev", "test")
            ]
            table.add_row(name, source, next(iter(cell.values()))["metric"], *values)
    output().print(table)
    for note in facts["notes"]:
        output().print(f"note: {note}", soft_wrap=True)


def _scored(ready: Prepared, source: str, cache: Path) -> dict[str, dict[str, Any]]:
    """Scores by split, from the cache where they are there."""
    target = ready.target
    base = target.tuned.backbone
    about = [ready.sources[source].digest, base.digest, base.precision, target.task.digest]
    key = digest_of([*about, ready.head, target.form.max_length])
    file = cache / ready.name / f"{source}.json"
    kept = read_json(file) if file.is_file() else {}
    if key not in kept:
        target.put(ready.complete(source))
        splits = (("dev", target.task.dev), ("test", target.task.test))
        kept[key] = {split: evaluate(target.tuned, target.form, part).numbers() for split, part in splits if part}
        write_json(file, kept)
    found: dict[str, dict[str, Any]] = kept[key]
    return found
