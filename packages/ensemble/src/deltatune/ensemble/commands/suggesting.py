"""`suggest`: the mixture of a folder of deltas to start a new task from, with the evidence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.ensemble.bench import Bench, Prepared
from deltatune.ensemble.commands.results import Kept, choice_of, data
from deltatune.ensemble.merging import Space, merge, part_of
from deltatune.ensemble.plots import heat_map
from deltatune.ensemble.suggestion import BUDGET, Suggestion
from deltatune.ensemble.suggestion import suggest as find
from deltatune.ensemble.taxonomy import short
from deltatune.ensemble.weighting import effective_number


@sharing(data)
def suggest(
    sources: Path,
    task: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    measures: list[str] = ["loss", "el2n", "label_cosine", "grand"],  # noqa: B006 - never changed
    folds: int = 4,
    top_k: int | None = None,
    learned: bool = True,
    space: Space = "factors",
    rank: int | None = None,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Find the mixture of your deltas to start a new task from: weighings compared on examples that they were not made from.

    Takes a folder of deltas and 16 or more training examples; dev and test are not looked at. OUT_DIR/start is the mixture, for
    `tune --start OUT_DIR/start`; weights.png shows every weighing. The same examples always give the same suggestion.

    Args:
        sources: folder of runs, delta folders or LoRA folders of PEFT.
        task: the new task, a name or a YAML file.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        measures: which to compare, beside uniform weights and the single source with the lowest loss.
        folds: parts of the examples; each is held out once.
        top_k: mix the k best sources only.
        learned: also learn weights by gradient.
        space: of LoRA: factors adds the A and the B each by themselves, as published; product adds the updates B A and factors
            the sum again. The evidence is for factors.
        rank: of the new factors; that of the sources by default.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    began = time.perf_counter()
    bench = Bench(sources, options["model"], options["device"], options["head"], options["other_base"])
    prepared = bench.prepare(short(task), choice_of(task, options), BUDGET)
    settings: dict[str, Any] = {"sources": {name: source.digest for name, source in prepared.sources.items()}, "task": task}
    settings |= {"data": prepared.target.task.digest, "base": prepared.target.tuned.backbone.digest, "measures": measures}
    settings |= {"folds": folds, "top_k": top_k, "learned": learned, "space": space, "rank": rank, "head": prepared.head}

    def work() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found = find(prepared, measures, folds, top_k, learned)
        weights = found.weights[found.chosen].weights
        used = {name: weight for name, weight in weights.items() if weight}
        parts = [part_of(name, prepared.sources[name].saved) for name in used]
        saved = merge(parts, list(used.values()), space, rank, options["other_base"])
        checkpoint.write(out_dir / "start", saved)
        rows = {name: item.weights for name, item in found.weights.items()}
        heat_map(out_dir / "weights.png", rows, list(weights), f"weights for {prepared.name}", "weighing")
        facts = _facts(found, prepared) | {"lost": saved.about.get("lost"), "seconds": round(time.perf_counter() - began, 2)}
        return facts, [{"kind": "evidence", "target": prepared.name, **row} for row in facts["evidence"]]

    _show(Kept(out_dir, config_yaml, overwrite, tag).once("suggest", settings, work), out_dir, space)


def _facts(found: Suggestion, prepared: Prepared) -> dict[str, Any]:
    rows = []
    for item in found.evidence:
        weighted = found.weights[item.name]
        rows.append(
            {"weighing": item.name, "held_out_loss": item.loss, "gain": item.gain, "low": item.low, "high": item.high}
            | {"temperature": weighted.temperature, "effective_number": effective_number(weighted.weights)}
            | {"weights": weighted.weights, "n": len(item.held_out)}
        )
    return {"chosen": found.chosen, "sure": found.sure, "evidence": rows, "head": prepared.head, "notes": list(prepared.notes)}


def _show(facts: Mapping[str, Any], out_dir: Path, space: Space) -> None:
    table = Table("weighing", "held-out loss", "better than uniform by", "95% interval", "temperature", "sources", "heaviest")
    for row in facts["evidence"]:
        best = sorted(row["weights"], key=lambda source: -row["weights"][source])[:3]
        heaviest = ", ".join(f"{source} {row['weights'][source]:.2f}" for source in best)
        interval = "" if row["weighing"] == "uniform" else f"{row['low']:+.4f} to {row['high']:+.4f}"
        gain = "" if row["weighing"] == "uniform" else f"{row['gain']:+.4f}"
        warm = "" if row["temperature"] is None else f"{row['temperature']:g}"
        table.add_row(
            row["weighing"], f"{row['held_out_loss']:.4f}", gain, interval, warm, f"{row['effective_number']:.1f}", heaviest
        )
    console = output()
    console.print(table)
    for note in facts["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    first = facts["evidence"][0]
    if first["weighing"] == "uniform":
        why = "no other weighing has a lower loss on held-out examples"
    elif facts["sure"]:
        why = f"its loss on {first['n']} held-out examples is lower than that of uniform weights, and the interval agrees"
    else:
        why = f"its loss on {first['n']} held-out examples is the lowest, but the interval does not tell it from uniform weights"
    console.print(f"suggestion: start from {facts['chosen']} weights: {why}", soft_wrap=True)
    how = "as factors" if space == "factors" else f"as products, factored again (the rank loses {facts['lost']:.1%})"
    console.print(f"the mixture is in {out_dir / 'start'} (LoRA combined {how}); {facts['seconds']:.1f} s", soft_wrap=True)
