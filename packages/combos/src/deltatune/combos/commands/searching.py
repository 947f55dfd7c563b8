"""`search labels` and `search templates`: automatic label words and templates, chosen on dev."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from deltatune.combos.combination import Combination
from deltatune.combos.commands.gridding import Job, work
from deltatune.combos.commands.running import PROGRAM, planning
from deltatune.combos.plans import Plan
from deltatune.combos.task_files import write_task
from deltatune.combos.untouched import Untouched
from deltatune.combos.vote import mapping_line, ranked
from deltatune.core.backbone import BackboneConfig
from deltatune.core.cli.output import output
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, read_text, write_text
from deltatune.core.loading import load_backbone
from deltatune.core.metrics import higher_is_better
from deltatune.core.template import label_word_ids

_SHOWN = 5


@dataclass(frozen=True)
class Candidate:
    """A way to ask: template and label words; `train` is what the search found it by, where that is a score."""

    template: str
    words: Mapping[str, str]
    train: float | None = None


@dataclass(frozen=True)
class Search:
    """What both searches do with their candidates.

    Args:
        plan: of a run that asks as a candidate does.
        out_dir: folder of the result.
        workers: runs at a time.
        config_yaml: the command's options.
    """

    plan: Plan
    out_dir: Path
    workers: int
    config_yaml: str

    def dev(self, asked: Untouched, candidates: Sequence[Candidate]) -> list[float]:
        """The dev score of every candidate: of the untouched model, or after tuning."""
        if not self.plan.combination.stages:
            return [asked.judge(one.template, one.words) for one in candidates]
        jobs = [self._job(number, one) for number, one in enumerate(candidates)]
        failed = work(jobs, self.workers)
        if failed:
            name, why = next(iter(failed.items()))
            raise DeltatuneError(f"{len(failed)} of {len(jobs)} candidates failed, {name} first: {why}")
        found = [read_json(job.path / "run.json")["scores"]["dev"]["value"] for job in jobs]
        return [math.nan if value is None else float(value) for value in found]

    def _job(self, number: int, one: Candidate) -> Job:
        task = replace(self.plan.config.task, label_words=dict(one.words))
        plan = replace(self.plan, template=one.template, config=replace(self.plan.config, task=task))
        return Job(plan, self.out_dir / "runs" / f"{number:03}", self.config_yaml, "search")

    def choose(self, asked: Untouched, candidates: Sequence[Candidate]) -> Found:
        """Rank the candidates by dev, and write the best one as a task file.

        Raises:
            DeltatuneError: there is none, or no dev example.
        """
        if not candidates:
            raise DeltatuneError("the search found no usable candidate; raise --beam, or give more examples")
        if not asked.task.dev:
            raise DeltatuneError(f"task {asked.task.name} has no dev examples to choose by")
        sign = 1 if higher_is_better(asked.task.metric) else -1
        dev = self.dev(asked, candidates)
        order = [number for number, _ in ranked({number: sign * value for number, value in enumerate(dev)})]
        rows = [
            {"template": candidates[i].template, "label_words": dict(candidates[i].words), "train": candidates[i].train}
            | {"dev": None if math.isnan(dev[i]) else dev[i]}
            for i in order
        ]
        best = candidates[order[0]]
        write_task(self.out_dir / "task.yaml", asked.task, self.plan.config.task, best.template, best.words)
        lines = [f"{candidates[i].template}\t{mapping_line(candidates[i].words)}" for i in order]
        write_text(self.out_dir / "candidates.txt", "".join(f"{line}\n" for line in lines))
        facts = {"tried": len(rows), "metric": asked.task.metric, "tuned": str(self.plan.combination), "best": rows[0]}
        facts |= {"own": self._own(asked), "first": rows[:_SHOWN]}
        common = {"kind": "candidate", "task": asked.task.name}
        return facts, [{**common, "rank": number, **row} for number, row in enumerate(rows, start=1)]

    def _own(self, asked: Untouched) -> dict[str, Any] | None:
        """The task's own template and words, asked of the untouched model for comparison."""
        config = asked.task.config
        if not config.template or set(config.label_words) != set(asked.keys):
            return None
        value = asked.judge(config.template, config.label_words)
        return {"template": config.template, "label_words": dict(config.label_words), "untouched_dev": value}


@sharing(planning)
def labels(
    out_dir: Path,
    config_yaml: SavedConfig,
    methods: str = "none",
    templates: Path | None = None,
    top_templates: int = 10,
    k_likely: int = 100,
    seed_words: dict[str, str] | None = None,
    k_neighbors: int = 30,
    pairs: int = 100,
    workers: int = 1,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Find label words: those that the untouched model finds likely at the mask and that classify the training examples best.

    Of each class the K_LIKELY likeliest words are kept, all combinations of them are scored on the training examples, and the
    best PAIRS are candidates; the one with the best dev score wins. OUT_DIR/task.yaml is the task with it, for --task;
    OUT_DIR/candidates.txt all candidates, best first. Nothing chooses by test.

    Args:
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        methods: what is tuned with each candidate before it is scored on dev, such as bias; none asks the untouched model.
        templates: file of templates, one a line, such as candidates.txt of search templates: words are searched for each of them.
        top_templates: how many of its first lines.
        k_likely: words of each class.
        seed_words: label -> word; words near it are taken.
        k_neighbors: how many, with --seed_words.
        pairs: candidates of each template.
        workers: runs at a time.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    search, asked = _begun(methods, out_dir, workers, config_yaml, options)
    given = [str(search.plan.stage_config(0).task.template)]
    if templates is not None:
        lines = [line.split("\t")[0] for line in read_text(templates).splitlines() if line.strip()]
        given = lines[:top_templates]
    settings = {"k_likely": k_likely, "seed_words": seed_words, "k_neighbors": k_neighbors, "pairs": pairs, "templates": given}

    def find() -> Found:
        seeds = None if seed_words is None else label_word_ids(seed_words, asked.keys, asked.tokenizer)
        found = [
            Candidate(text, dict(zip(asked.keys, map(asked.word, pairing.words), strict=True)), pairing.score)
            for text in given
            for pairing in asked.pairings(text, k_likely, pairs, seeds, k_neighbors)
        ]
        return search.choose(asked, found)

    _finish("labels", search, asked, settings, find, (tag, overwrite))


@sharing(planning, without=("template",))
def templates(
    filler: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    methods: str = "none",
    beam: int = 100,
    workers: int = 1,
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Find templates: a text-to-text model (T5) fills the blanks around the label words of all training examples together.

    The BEAM likeliest fillings (of single texts half of them before and half behind the text) that are templates with one mask
    are candidates; the one with the best dev score wins. OUT_DIR/task.yaml is the task with it, for --task;
    OUT_DIR/candidates.txt all candidates, best first. Nothing chooses by test.

    Args:
        filler: folder or name of the text-to-text model, such as t5-base or world/t5.
        out_dir: folder of the result.
        config_yaml: filled in by the program.
        methods: what is tuned with each candidate before it is scored on dev, such as bias; none asks the untouched model.
        beam: fillings that are kept at every token.
        workers: runs at a time.
        tag: a word of yours that goes into the records.
        overwrite: throw away a result that is in out_dir.
    """
    if beam < 1:
        raise DeltatuneError(f"--beam must be at least 1, got {beam}")
    search, asked = _begun(methods, out_dir, workers, config_yaml, {**options, "template": "none"})
    own = search.plan.config.task.label_words or asked.task.config.label_words
    if set(own) != set(asked.keys):
        raise DeltatuneError(f"task {asked.task.name} has no label words to fill around; give --label_words")

    def find() -> Found:
        model = load_backbone(BackboneConfig(filler, form="text", device=search.plan.config.backbone.device))
        return search.choose(asked, [Candidate(text, dict(own)) for text in asked.templates(model, own, beam)])

    _finish("templates", search, asked, {"filler": filler, "beam": beam}, find, (tag, overwrite))


def _begun(methods: str, out_dir: Path, workers: int, config_yaml: str, options: dict[str, Any]) -> tuple[Search, Untouched]:
    plan = replace(planning(**options), combination=Combination.parse(methods))
    if not plan.in_template:
        raise DeltatuneError("searches are for tasks asked by a template; leave --form head out")
    return Search(plan, out_dir, workers, config_yaml), Untouched.of(plan.config)


def _finish(name: str, search: Search, asked: Untouched, settings: Mapping[str, Any], find: Any, kept: tuple[str, bool]) -> None:
    tag, overwrite = kept
    about = {**settings, "plan": search.plan.settings(), "data": asked.task.digest, "base": asked.backbone.digest}
    facts = Kept(search.out_dir, search.config_yaml, overwrite, tag, PROGRAM).once(f"search {name}", about, find)
    table = Table("rank", "template", "label words", "training score", "dev")
    for number, row in enumerate(facts["first"], start=1):
        train = "" if row["train"] is None else f"{row['train']:.4f}"
        table.add_row(str(number), row["template"], mapping_line(row["label_words"]), train, _number(row["dev"]))
    console = output()
    console.print(table)
    how = "the untouched model" if facts["tuned"] == "none" else f"{facts['tuned']} tuned with each"
    console.print(f"tried {facts['tried']} candidates, chosen by {facts['metric']} on dev: {how}", soft_wrap=True)
    if (own := facts["own"]) is not None:
        console.print(f"the task's own template and words, untouched: {_number(own['untouched_dev'])} on dev", soft_wrap=True)
    console.print(f"the best one is in {search.out_dir / 'task.yaml'}: --task {search.out_dir / 'task.yaml'}", soft_wrap=True)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
