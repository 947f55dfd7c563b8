"""`advise`: what are my old deltas worth on the upgraded model?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from deltatune.core import checkpoint
from deltatune.core.backbone import Backbone, BackboneConfig, Device, base_tensors
from deltatune.core.cli.output import output
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.data import Task
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import Scores, evaluate
from deltatune.core.evidence import Clock, constant
from deltatune.core.loading import load_backbone
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.weights import Weights, cosine, difference, norm
from deltatune.recyclable.advice import Evidence, decide
from deltatune.recyclable.candidates import Candidate, Search, form_of, search
from deltatune.recyclable.commands.results import Found, Kept
from deltatune.recyclable.distill import Distillation
from deltatune.recyclable.recycle import Recycling, put
from deltatune.recyclable.teacher import Teacher
from deltatune.recyclable.tokenizers import Reading, compare, require_readable
from deltatune.recyclable.trials import Bench, Outcome, Trial, seconds_for_each, training, update_seconds


def advise(
    old_base: str,
    new_base: str,
    deltas: Path,
    task: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    data_dir: Path | None = None,
    budget: float = 300.0,
    updates: int | None = None,
    lr: float | None = None,
    batch_size: int = 16,
    alpha: float = 0.9,
    beta: float = 0.0,
    temperature: float = 5.0,
    seed: int = 0,
    form: Literal["auto", "head", "prompt"] = "auto",
    max_length: int = 128,
    max_train: int = 500,
    max_dev: int = 500,
    device: Device = "auto",
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Say what each outdated delta is worth on the upgraded base, with the evidence.

    Each delta is scored on dev: on the old base, untouched on the new one, with its head alone, and after short trainings of
    equal time: from it as initialization, with it as teacher, and afresh. Nothing looks at test.

    Args:
        old_base: the model that the deltas were tuned on.
        new_base: the upgraded model.
        deltas: a folder of runs, delta folders or PEFT LoRA folders; or one of them.
        task: built-in name, or a YAML task file.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        data_dir: root of task folders, or the folder that holds the task's files.
        budget: seconds for everything; held within 10%, or refused with the number that would do.
        updates: of each training, for results that do not depend on the machine's speed; by default as many as there is time for.
        lr: learning rate of the trainings; by default one that suits the delta.
        batch_size: examples in an update.
        alpha: weight of the distillation term.
        beta: weight of the layer-wise term.
        temperature: of the distillation.
        seed: of initial values, order and dropout.
        form: how the task is asked; auto as the deltas were tuned.
        max_length: longest input in tokens.
        max_train: train on the first N examples.
        max_dev: score on the first N dev examples.
        device: where to compute.
        tag: a word of yours that goes into the records.
        overwrite: throw away the result that is in out_dir.
    """
    clock, choice = Clock(budget), TaskChoice(task, data_dir, max_length, max_train, max_dev)
    losses, loaded = Distillation(alpha, beta, temperature), replace(choice.load(), test=())
    if not loaded.dev:
        raise DeltatuneError(f"task {task} has no dev examples, so there is nothing to judge by")
    asked = form_of(deltas) if form == "auto" else form
    width = 1 if loaded.regression else len(loaded.labels)
    old, new = (load_backbone(BackboneConfig(name, None, asked, device), num_labels=width) for name in (old_base, new_base))
    if new.form == "text":
        raise DeltatuneError(f"model {new_base} answers in texts; advise compares classes or values, tune and evaluate instead")
    bases = _Bases(old, new, _reading(old, new, loaded))
    found = search(deltas, old, loaded)
    config = TuneConfig(BackboneConfig(new_base), choice, (), training(lr, batch_size, seed), init_seed=seed)
    settings: dict[str, Any] = {"old_base": old.digest, "new_base": new.digest, "data": loaded.digest, "max_length": max_length}
    settings |= {"deltas": [[item.name, _digest(item)] for item in found.found], "skipped": sorted(found.skipped), "lr": lr}
    settings |= {"budget": budget, "updates": updates, "batch_size": batch_size, "distillation": vars(losses), "seed": seed}

    def work() -> Found:
        rows = list(_Advice(bases, loaded, Bench(new, loaded, config, updates), losses, clock).rows(found))
        numbers = {"bases": bases.numbers(), "skipped": found.skipped, "budget": budget, "spent": round(clock.spent, 2)}
        return {**numbers, "deltas": rows}, [{"kind": "advice", "task": task, **row} for row in rows]

    _show(Kept(out_dir, config_yaml, overwrite, tag).once("advise", settings, work))


def _digest(item: Candidate) -> str:
    total = sum(float(tensor.double().square().sum()) for tensor in item.saved.weights.values())
    return f"{item.saved.base.get('digest')}:{total!r}"


def _reading(old: Backbone, new: Backbone, task: Task) -> Reading:
    if old.tokenizer is None or new.tokenizer is None:
        raise DeltatuneError("both bases need their tokenizers; save them in the models' folders")
    reading = compare(old.tokenizer, new.tokenizer, [text for example in task.dev[:100] for text in example.texts])
    require_readable(reading, new.name)
    return reading


@dataclass(frozen=True)
class _Bases:
    """The old and the new base."""

    old: Backbone
    new: Backbone
    reading: Reading

    def numbers(self) -> dict[str, Any]:
        """Distance between the bases, over the words that both have.

        Raises:
            DeltatuneError: they are not of one shape.
        """
        ends = [dict(base_tensors(side.model, side.sites)) for side in (self.old, self.new)]
        before: Weights = ends[0]
        after = {name: w[: len(before[name])] if name in before and w.dim() == 2 else w for name, w in ends[1].items()}
        moved = difference(after, before)
        length = norm(before)
        found = {"l2": norm(moved), "relative": norm(moved) / length if length else float("nan"), "cosine": cosine(before, after)}
        names = {"old": self.old.name, "new": self.new.name}
        return {**names, **found, "tokenizer": self.reading.status, "tokenizer_said": self.reading.said}


@dataclass
class _Advice:
    """The trials of every delta."""

    bases: _Bases
    task: Task
    bench: Bench
    losses: Distillation
    clock: Clock

    def rows(self, found: Search) -> Iterator[dict[str, Any]]:
        """One row of evidence and advice for each delta.

        Raises:
            DeltatuneError: no delta fits, or the budget is too small.
        """
        if not found.found:
            raise DeltatuneError(
                "none of the deltas can be tried: " + "; ".join(f"{n}: {why}" for n, why in found.skipped.items())
            )
        begun = self.clock.spent
        scored = [self._scored(item) for item in found.found]
        evaluations = sum(len(row) for row in scored)
        scoring = (self.clock.spent - begun) / evaluations
        example = scoring / len(self.task.dev)
        kinds = {self._kind(item) for item in found.found}
        ways = 1 if self.task.regression else 2  # values have no logits to distil
        trials = ways * len(found.found) + len(kinds)
        hearing = (ways - 1) * len(found.found) * len(self.task.train) * example
        batch = self.bench.config.train.batch_size
        each = seconds_for_each(self.clock, trials, scoring, hearing, example, batch)
        if self.bench.updates is not None:
            needed = trials * (self.bench.updates * update_seconds(example, batch) + scoring) + hearing
            self.clock.require(needed, f"{trials} trainings of {self.bench.updates} updates")
        afresh: dict[str, Outcome] = {}
        for item, scores in zip(found.found, scored, strict=True):
            yield self._row(item, scores, each, afresh)

    def _kind(self, item: Candidate) -> str:
        return str([config.describe() for config in item.saved.configs])

    def _scored(self, item: Candidate) -> dict[str, Scores]:
        """Scores without training."""
        tuned = checkpoint.attach_saved(item.saved, self.bases.old, other_base=True)
        form = replace(self.bench, backbone=self.bases.old).form(item.saved)
        found = {"old": evaluate(tuned, form, self.task.dev)}
        tuned.detach()
        ways = {"untouched": Recycling()} | ({"head": Recycling(scale=0.0)} if item.saved.head else {})
        for name, how in ways.items():
            tuned = self.bench.attached(item.saved)
            try:
                put(item.saved, tuned, how)
                found[name] = evaluate(tuned, self.bench.form(item.saved), self.task.dev)
            except DeltatuneError:
                if name == "untouched":  # a prompt has no effect to be scaled away, and so no head alone
                    raise
            finally:
                tuned.detach()
        return found

    def _row(self, item: Candidate, scores: dict[str, Scores], each: float, afresh: dict[str, Outcome]) -> dict[str, Any]:
        begun, kind = self.clock.spent, self._kind(item)
        if kind not in afresh:
            afresh[kind] = self._trained(item, each)
        trials = {"initialized": self._trained(item, each, start=True)}
        if not self.task.regression:
            trials["distilled"] = self._trained(item, each, taught=True)
        trials["fresh"] = afresh[kind]
        tried = {"untouched": scores["untouched"]} | {name: outcome.scores for name, outcome in trials.items()}
        form = self.bench.form(item.saved)
        references = form.references(self.task.dev)
        always = constant(form.metric, references)
        verdict = decide(Evidence(scores["old"], tried, always, references))
        every = {"constant": always, "old_base": scores["old"], "head_alone": scores.get("head"), **tried}
        numbers = {name: found.numbers() if found else None for name, found in every.items()}
        costs = {name: {"updates": outcome.updates, "seconds": round(outcome.seconds, 2)} for name, outcome in trials.items()}
        row = {"delta": item.name, "deltas": item.kind, "known_base": item.known_base, "notes": list(item.notes), "dev": numbers}
        return {**row, "trials": costs, "seconds": round(self.clock.spent - begun, 2), **verdict.numbers()}

    def _trained(self, item: Candidate, seconds: float, start: bool = False, taught: bool = False) -> Outcome:
        """A short training: from the delta, with the delta as teacher, or afresh."""
        tuned, form = self.bench.attached(item.saved), self.bench.form(item.saved)
        teacher = self._teacher(item) if taught else None
        try:
            if start:
                put(item.saved, tuned)
            if teacher is not None:
                teacher.hear(self.task.train, form, form.features(self.task.train))
            until = self.clock.begun + self.clock.budget if self.bench.updates is not None else self.clock.now + seconds
            return self.bench.run(tuned, form, item.saved, Trial(until, teacher, self.losses))
        finally:
            tuned.detach()
            if teacher is not None:
                teacher.tuned.detach()

    def _teacher(self, item: Candidate) -> Teacher:
        tuned = checkpoint.attach_saved(item.saved, self.bases.old, other_base=True)
        return Teacher(tuned, replace(self.bench, backbone=self.bases.old).form(item.saved), bool(self.losses.beta))


_COLUMNS = {
    "constant": "constant",
    "old_base": "old base",
    "untouched": "untouched",
    "head_alone": "head alone",
    "initialized": "initialized",
    "distilled": "distilled",
    "fresh": "afresh",
}


def _show(facts: dict[str, Any]) -> None:
    bases, console = facts["bases"], output()
    moved = f"L2 {bases['l2']:.4g}, {100 * bases['relative']:.2f}% of the old base's length, cosine {bases['cosine']:.5f}"
    console.print(f"bases: {bases['old']} -> {bases['new']}: {moved}", soft_wrap=True)
    console.print(f"tokenizer: {bases['tokenizer_said']}", soft_wrap=True)
    table = Table("delta", "kind", *_COLUMNS.values(), "updates", "advice")
    for row in facts["deltas"]:
        values = [row["dev"].get(name) for name in _COLUMNS]
        cells = ["" if found is None or found["value"] is None else f"{found['value']:.3f}" for found in values]
        done = "/".join(str(row["trials"][name]["updates"]) for name in row["trials"])
        table.add_row(row["delta"], row["deltas"], *cells, done, row["advice"])
    console.print(table)
    for row in facts["deltas"]:
        console.print(f"{row['delta']}: {row['advice']}: {row['reason']}", soft_wrap=True)
        for note in row["notes"]:
            console.print(f"  {note}", soft_wrap=True)
    for name, why in facts["skipped"].items():
        console.print(f"{name}: skipped: {why}", soft_wrap=True)
    console.print(f"{facts['spent']:.1f} of {facts['budget']:g} s", soft_wrap=True)
