"""`suggest`: which combination to tune on a few examples, with the evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.combos.combination import SIMULTANEOUS, Combination
from deltatune.combos.commands.gridding import rates_of
from deltatune.combos.commands.running import PROGRAM, planning
from deltatune.combos.plans import Plan
from deltatune.combos.suggestion import Suggestion, Way
from deltatune.combos.trials import Trials
from deltatune.core.cli.output import output
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.errors import DeltatuneError
from deltatune.core.evidence import Clock

_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@sharing(planning, without=("train_score",))
def suggest(
    out_dir: Path,
    config_yaml: SavedConfig,
    budget: str = "15m",
    methods: list[str] | None = None,
    rates: dict[str, list[float]] | None = None,
    folds: int = 4,
    updates: int | None = None,
    most: int = 400,
    reference: str = "adapter",
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Find the combination of prompt, bias and adapter for your few examples: each tried on examples that it was not tuned on.

    Takes a task with 16 or more training examples; dev and test are not looked at. Every combination is trained for the same
    number of updates with each fold held out, and compared over all held-out examples with the reference. With --updates the same
    examples always give the same suggestion; without, the machine's speed decides how long is trained.

    Args:
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        budget: time for everything, such as 15m, 90s or 1h; held within 10%, or refused with the number that would do.
        methods: combinations; by default the eight subsets of prompt, bias and adapter, none among them where a template asks.
        rates: learning rates to try of each combination, with other for the rest: {prompt: [1e-2], other: [1e-3, 3e-4]}; by
            default one that suits the deltas.
        folds: parts of the examples; each is held out once.
        updates: of every training; by default as many as there is time for.
        most: of these.
        reference: the combination that gains are counted from.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    clock = Clock(seconds_of(budget), "give fewer --methods, or shorter texts (--max_length)")
    plan = planning(**options, train_score=False)
    ways = _ways(plan, methods, rates)
    first = next((way for way in ways if str(way.combination) == str(Combination.parse(reference))), None)
    if first is None:
        raise DeltatuneError(f"--reference {reference} is not tried; give one of {', '.join(way.name for way in ways)}")
    trials = Trials(plan, clock)
    # Before the folder is claimed: what is refused leaves nothing behind.
    there = (out_dir / "run.json").is_file() and not overwrite
    measured = None if there else trials.measure(ways, folds, updates, most)
    settings: dict[str, Any] = {"plan": plan.settings(), "ways": [way.name for way in ways], "folds": folds, "updates": updates}
    settings |= {"budget": clock.budget, "most": most, "reference": reference, "data": trials.task.digest}
    settings |= {"base": trials.backbone.digest}

    def work() -> Found:
        found = trials.suggest(ways, folds, measured or trials.measure(ways, folds, updates, most), first)
        facts = _facts(found, plan, most) | {"budget": clock.budget, "spent": round(clock.spent, 2)}
        return facts, [{"kind": "evidence", "task": plan.config.task.task, **row} for row in facts["evidence"]]

    _show(Kept(out_dir, config_yaml, overwrite, tag, PROGRAM).once("suggest", settings, work))


def seconds_of(budget: str) -> float:
    """Seconds of a time such as 15m, 90s, 1.5h or 300.

    Raises:
        DeltatuneError: it is no time.
    """
    found = _BUDGET.fullmatch(str(budget).strip())
    if found is None or float(found[1]) <= 0:
        raise DeltatuneError(f"--budget {budget}: give a time such as 15m, 90s or 1h")
    return float(found[1]) * _UNITS[found[2]]


def _ways(plan: Plan, methods: list[str] | None, rates: Mapping[str, list[float]] | None) -> list[Way]:
    texts = methods or [name for name in SIMULTANEOUS if plan.in_template or name != "none"]
    ways = []
    for combination in map(Combination.parse, dict.fromkeys(texts)):
        if len(combination.stages) > 1:
            raise DeltatuneError(f"--methods {combination} has stages; suggest tries methods together")
        ways += [Way(combination, rate) for rate in (rates_of(rates, combination) if rates else [None])]
    return ways


def _facts(found: Suggestion, plan: Plan, most: int) -> dict[str, Any]:
    best = found.evidence[0]
    task = plan.config.task
    words = ["deltatune-combos run", f"--methods {best.way.combination}", f"--model {plan.config.backbone.model}"]
    words += [f"--task {task.task}", f"--train.steps {found.updates}"]
    words += [f"--lr {best.way.rate:g}"] if best.way.rate is not None else []
    return {
        "chosen": best.way.name,
        "sure": found.sure,
        "above_chance": found.above_chance,
        "undecided": [item.way.name for item in found.undecided],
        "reference": found.reference.name,
        "constant": found.constant.numbers()["value"],
        "metric": best.held_out.metric,
        "updates": found.updates,
        "folds": found.folds,
        "command": " ".join(words),
        "evidence": [{"way": item.way.name, **item.numbers()} for item in found.evidence],
        "notes": _notes(found, most),
    }


def _notes(found: Suggestion, most: int) -> list[str]:
    best, metric = found.evidence[0], found.evidence[0].held_out.metric
    notes = []
    if not found.above_chance:
        notes.append(
            f"undecided: {metric} {best.held_out.value:.3f} is not clearly above always giving the most frequent answer "
            f"({found.constant.value:.3f}); raise --budget, or label more examples"
        )
    if found.updates < most:
        notes.append(f"each training had {found.updates} updates; a larger --budget trains longer, up to {most} (--most)")
    same = sorted(found.undecided, key=lambda item: item.trained)
    if same and same[0].trained < best.trained:
        notes.append(
            f"{same[0].way.name} trains fewer numbers ({same[0].trained:,}), and the examples do not tell it from the first"
        )
    return notes


def _show(facts: Mapping[str, Any]) -> None:
    reference = facts["reference"]
    table = Table(
        "methods", f"held-out {facts['metric']}", "loss", f"better than {reference} by", "95% interval", "trained", "seconds"
    )
    for row in facts["evidence"]:
        other = row["way"] != reference
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}" if other else ""
        gain = f"{row['gain']:+.4f}" if other else ""
        values = ["" if row[name] is None else f"{row[name]:.4f}" for name in ("held_out_value", "held_out_loss")]
        table.add_row(row["way"], *values, gain, interval, f"{row['trained']:,}", f"{row['seconds']:.1f}")
    console = output()
    console.print(table)
    for note in facts["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    count = facts["evidence"][0]["held_out_n"]
    if facts["chosen"] == reference:
        why = f"no other combination is better on {count} held-out examples"
    elif facts["sure"]:
        why = f"it is better than {reference} on {count} held-out examples, and the interval agrees"
    else:
        why = f"it is the best on {count} held-out examples, but the interval does not tell it from {reference}"
    console.print(f"suggestion: {facts['chosen']}: {why}", soft_wrap=True)
    console.print(f"then: {facts['command']} --out_dir runs/suggested", soft_wrap=True)
    spent = f"{facts['spent']:.1f} of {facts['budget']:g} s"
    console.print(f"{facts['folds']} folds, {facts['updates']} updates each; {spent}", soft_wrap=True)
