"""`weights`: score sources for targets, and turn the scores into weights."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, write_text
from deltatune.core.reuse import open_run
from deltatune.ensemble.bench import Bench, Prepared
from deltatune.ensemble.commands.results import Kept, choice_of, data
from deltatune.ensemble.matrix import final_weight_text, write_published
from deltatune.ensemble.measures import Measure, measure
from deltatune.ensemble.mixture import choose, learn
from deltatune.ensemble.modules import WHOLE, By
from deltatune.ensemble.plots import curve, heat_map, importance
from deltatune.ensemble.score_cache import ScoreCache
from deltatune.ensemble.scoring import Budget, ByModule
from deltatune.ensemble.sources import others
from deltatune.ensemble.taxonomy import named, read_taxonomy
from deltatune.ensemble.weight_scores import gain, movement
from deltatune.ensemble.weighting import Softening, effective_number, manual_division, soften, uniform

SINGLE, LEARNED = "single", "learned"
Weights = dict[str, dict[str, dict[str, dict[str, float]]]]  # measure -> module -> target -> source -> weight


@sharing(data)
def weights(
    sources: Path,
    tasks: list[str],
    out_dir: Path,
    config_yaml: SavedConfig,
    measures: list[str] = ["loss"],  # noqa: B006 - never changed
    by: By = "whole",
    temperature: float | None = None,
    temperatures: list[float] | None = None,
    top_k: int | None = None,
    standardise: bool = False,
    floor: float = 0.0,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    reference: Path | None = None,
    tuned: Path | None = None,
    taxonomy: Path | None = None,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Score how well each source suits each target, and turn the scores of a target into weights over the other sources.

    All measures that need examples share one pass over them. A source that was tuned on the target itself is scored and has no
    weight. Scores are kept in OUT_DIR-cache, so a further source or measure costs itself alone.

    Args:
        sources: folder of runs, delta folders or LoRA folders of PEFT.
        tasks: the targets, names or YAML files; '[qa]' for the paper's 32 tasks.
        out_dir: folder of the result: weights.json, scores and weights in the published form, heat maps, records.
        config_yaml: filled in by the program.
        measures: loss, el2n, label_cosine, grand; kl, hidden_cosine, weight_cosine (with --reference); euclidean, performance
            (with --tuned); uniform, manual; single (everything to the source with the lowest loss); learned (by gradient on
            the training examples). As published with wrong signs: label_cosine_as_released, hidden_cosine_as_released,
            performance_as_earlier.
        by: whole, or the importance of modules: block or sublayer, from grand, and by block from hidden_cosine.
        temperature: T of the softmax; that of the published script for the measure by default.
        temperatures: choose T for each target among these by the loss of the mixture on dev (0 is the best source alone, .inf the
            uniform average).
        top_k: keep the k best sources only.
        standardise: divide each target's scores by their standard deviation, so that one T suits all.
        floor: share of the weight given to all sources alike.
        budget: which examples, how many, and how scores are added up.
        reference: folder of deltas tuned on the targets, as `tune-all --shots 16` leaves it.
        tuned: folder of sources tuned on the targets, as `tune-all --sources` leaves it.
        taxonomy: YAML file of categories for `manual`; the paper's by default.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    began = time.perf_counter()
    chosen = [measure(name) for name in measures if name not in (SINGLE, LEARNED)]
    targets = named(tasks)
    how = Softening(temperature if temperature is not None else 0.1, top_k, standardise, floor)
    bench = Bench(sources, options["model"], options["device"], options["head"], options["other_base"], reference)
    first = next(iter(targets))
    prepared = bench.prepare(first, choice_of(targets[first], options), budget)
    settings: dict[str, Any] = {"sources": {name: source.digest for name, source in prepared.sources.items()}, "tasks": targets}
    settings |= {
        "measures": measures,
        "by": by,
        "temperature": temperature,
        "temperatures": temperatures,
        "budget": asdict(budget),
    }
    settings |= {"top_k": top_k, "standardise": standardise, "floor": floor, "base": prepared.target.tuned.backbone.digest}
    settings |= {"reference": str(reference), "tuned": str(tuned), "taxonomy": str(taxonomy)}
    settings |= {name: str(value) for name, value in options.items() if name not in ("device", "model")}
    weigher = Weigher(
        chosen, by, how, temperature, temperatures, ScoreCache(out_dir.with_name(f"{out_dir.name}-cache")), tuned, taxonomy,
        [name for name in measures if name in (SINGLE, LEARNED)],
    )  # fmt: skip

    def work() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        for name, task in targets.items():
            weigher.take(bench.prepare(name, choice_of(task, options), budget))
        _write(weigher, out_dir, list(prepared.sources))
        places = {name: source.path.as_posix() for name, source in prepared.sources.items()}
        facts = {"weights": weigher.weights, "sources": places, "temperatures": weigher.used, "notes": list(prepared.notes)}
        facts |= {"measured": weigher.cache.measured, "seconds": round(time.perf_counter() - began, 2)}
        return facts, _records(weigher)

    _show(Kept(out_dir, config_yaml, overwrite, tag).once("weights", settings, work))


class Weigher:
    """Scores and weights of one target after another."""

    def __init__(
        self, measures: list[Measure], by: By, how: Softening, temperature: float | None, temperatures: list[float] | None,
        cache: ScoreCache, tuned: Path | None, taxonomy: Path | None, further: Sequence[str],
    ) -> None:  # fmt: skip
        """See `weights`."""
        self.measures, self.by, self.how, self.cache, self.tuned = measures, by, how, cache, tuned
        self.temperature, self.temperatures, self.taxonomy, self.further = temperature, temperatures, taxonomy, further
        self.scores: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        self.weights: Weights = {}
        self.used: dict[str, dict[str, dict[str, float]]] = {}
        self.tried: dict[str, dict[str, dict[float, float]]] = {}

    def take(self, prepared: Prepared) -> None:
        """Score and weigh the sources of a target."""
        wanted = list(dict.fromkeys(m.scores for m in self.measures if m.needs in ("examples", "gradients", "reference")))
        if SINGLE in self.further and "loss" not in wanted:
            wanted.append("loss")
        found = self.cache.scores(prepared, wanted, self.by)
        for item in self.measures:
            if item.needs == "runs":
                found[item.scores] = _from_runs(item, prepared, self.tuned)
        allowed = others(dict(prepared.sources), prepared.name)
        for item in self.measures:
            if item.needs in ("nothing", "taxonomy"):
                self._keep(
                    item.name, WHOLE, prepared.name, self._plain(item, prepared.name, {n: s.task for n, s in allowed.items()})
                )
                continue
            rows = found[item.scores]
            for module in next(iter(rows.values())):
                row = {source: rows[source][module] for source in rows}
                self.scores.setdefault(item.scores, {}).setdefault(module, {})[prepared.name] = row
                left = {source: value for source, value in row.items() if source in allowed}
                self._soften(item, module, prepared, left)
        if SINGLE in self.further:
            row = {source: found["loss"][source][WHOLE] for source in allowed}
            self._keep(SINGLE, WHOLE, prepared.name, soften(row, -1, Softening(0.0, top_k=1)))
        if LEARNED in self.further:
            self._keep(LEARNED, WHOLE, prepared.name, learn(prepared, list(allowed), prepared.target.task.train))

    def _plain(self, item: Measure, target: str, tasks: Mapping[str, str]) -> dict[str, float]:
        return uniform(list(tasks)) if item.name == "uniform" else manual_division(target, tasks, read_taxonomy(self.taxonomy))

    def _soften(self, item: Measure, module: str, prepared: Prepared, row: dict[str, float]) -> None:
        how = replace(self.how, temperature=item.temperature if self.temperature is None else self.temperature)
        if self.temperatures:
            best, tried = choose(prepared, row, item.sign, how, self.temperatures)
            how = replace(how, temperature=best)
            self.tried.setdefault(f"{item.name} {module}", {})[prepared.name] = tried
        self.used.setdefault(item.name, {}).setdefault(module, {})[prepared.name] = how.temperature
        self._keep(item.name, module, prepared.name, soften(row, item.sign, how))

    def _keep(self, name: str, module: str, target: str, row: dict[str, float]) -> None:
        self.weights.setdefault(name, {}).setdefault(module, {})[target] = row


def _from_runs(item: Measure, prepared: Prepared, folder: Path | None) -> dict[str, ByModule]:
    """Scores from sources that were tuned on the target."""
    if folder is None:
        raise DeltatuneError(
            f"measure {item.name} needs each source tuned on each target; make them with tune-all, give them as --tuned"
        )
    runs = {source: folder / prepared.name / source for source in prepared.sources}
    for source, path in runs.items():
        if not (path / "run.json").is_file() or read_json(path / "run.json").get("status") != "finished":
            raise DeltatuneError(f"--tuned {folder}: no finished run {prepared.name}/{source}; run `tune-all --sources` again")
    if item.scores == "euclidean":
        deltas = {source: checkpoint.read(path) for source, path in runs.items()}
        tensors = {source: {n: w for n, w in saved.weights.items() if n not in saved.head} for source, saved in deltas.items()}
        return {source: {WHOLE: movement(prepared.sources[source].delta, tensors[source])} for source in runs}
    facts = {source: read_json(open_run(path).folder / "run.json") for source, path in runs.items()}
    ends = [{source: _dev(found, key) for source, found in facts.items()} for key in ("scores", "before")]
    return {source: {WHOLE: value} for source, value in gain(*ends).items()}


def _dev(facts: Mapping[str, Any], key: str) -> float:
    value = facts.get(key, {}).get("dev", {}).get("value")
    if value is None:
        raise DeltatuneError(f"performance: a run of --tuned has no dev score {'before' if key == 'before' else 'after'} tuning")
    return float(value)


def _write(weigher: Weigher, out_dir: Path, sources: list[str]) -> None:
    """Scores, weights and figures; published names where the published programs have one."""
    for name, modules in weigher.scores.items():
        for module, matrix in modules.items():
            file = "result.tsv" if module == WHOLE else f"{module}_result.tsv"
            write_published(out_dir / "scores" / name / file, matrix)
        if WHOLE not in modules:
            means = {module: _mean([v for row in matrix.values() for v in row.values()]) for module, matrix in modules.items()}
            importance(out_dir / "scores" / name / "modules.png", means, f"{name}, mean over targets and sources", name)
    for name, modules in weigher.weights.items():
        for module, matrix in modules.items():
            folder = out_dir / "weights" / name / ("" if module == WHOLE else module)
            write_text(folder / "final_weight.txt", final_weight_text(matrix))
            heat_map(folder / "weights.png", matrix, sources, f"weights by {name}" + ("" if module == WHOLE else f", {module}"))
    for place, tried in weigher.tried.items():
        name, _, module = place.partition(" ")
        curve(
            out_dir / "weights" / name / ("" if module == WHOLE else module) / "temperatures.png", tried, f"temperature of {name}"
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _records(weigher: Weigher) -> list[dict[str, Any]]:
    found = []
    for kind, table in (("score", weigher.scores), ("weight", weigher.weights)):
        for name, modules in table.items():
            for module, matrix in modules.items():
                about = {"kind": kind, "measure": name, "module": module}
                found += [{**about, "target": t, "source": s, "value": v} for t, row in matrix.items() for s, v in row.items()]
    for place, targets in weigher.tried.items():
        name, _, module = place.partition(" ")
        about = {"kind": "temperature", "measure": name, "module": module}
        rows = [(target, value, loss) for target, tried in targets.items() for value, loss in tried.items()]
        found += [{**about, "target": target, "temperature": str(value), "loss": loss} for target, value, loss in rows]
    return found


def _show(facts: Mapping[str, Any]) -> None:
    table = Table("measure", "module", "target", "temperature", "heaviest sources", "effective number")
    rows = [
        (m, module, t, row)
        for m, modules in facts["weights"].items()
        for module, matrix in modules.items()
        for t, row in matrix.items()
    ]
    for name, module, target, row in rows[:_SHOWN]:
        best = sorted(row, key=lambda source: -row[source])[:3]
        used = facts["temperatures"].get(name, {}).get(module, {}).get(target)
        heaviest = ", ".join(f"{source} {row[source]:.2f}" for source in best)
        table.add_row(
            name, module, target, "" if used is None else f"{used:g}", heaviest, f"{effective_number(row):.1f} of {len(row)}"
        )
    console = output()
    console.print(table)
    if len(rows) > _SHOWN:
        console.print(f"{len(rows) - _SHOWN} more rows in run.json", soft_wrap=True)
    for note in facts["notes"]:
        console.print(f"note: {note}", soft_wrap=True)


_SHOWN = 60
