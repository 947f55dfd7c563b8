"""`run` and `sequence`: one combination, tuned together or stage after stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from deltatune.combos.combination import Combination, Sizes
from deltatune.combos.commands.figures import draw_sequence
from deltatune.combos.contexts import Demonstrations
from deltatune.combos.methods import Dropout, RegressionLoss
from deltatune.combos.plans import Handover, Plan, carry_out, gap_of
from deltatune.core.cli.output import output
from deltatune.core.cli.results import show_scores
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.cli.sharing import sharing
from deltatune.core.cli.tune import tuning
from deltatune.core.delta import BitFit
from deltatune.core.errors import DeltatuneError
from deltatune.core.run import read_records

PROGRAM = "deltatune-combos"
OF_THE_DELTA = ("delta", "also", "start", "other_base", "half")


@sharing(tuning, without=OF_THE_DELTA)
def planning(
    template: str = "manual",
    label_words: dict[str, str] | None = None,
    sizes: Sizes = Sizes(),  # noqa: B008 - frozen
    seed: int | None = None,
    form: Literal["prompt", "head", "prompt-demo"] = "prompt",
    demos: Demonstrations = Demonstrations(),  # noqa: B008 - frozen
    dropout: Dropout = "on",
    regression_loss: RegressionLoss = "kl",
    as_published: bool = False,
    train_score: bool = True,
    first_sentence_limit: int | None = None,
    other_sentence_limit: int | None = None,
    **options: Any,
) -> Plan:
    """The options of every command that tunes combinations, as a plan of no combination yet.

    Args:
        template: manual for the task's own (published: Y), none for texts and mask without words (N), or a template as text.
        label_words: label -> word, in place of the task's own.
        sizes: of the deltas.
        seed: of everything: initial values, order, dropout, and the sample of --shots; in --data_dir, {seed} stands for it.
        form: prompt asks by label words at a mask (published few_shot_type prompt), prompt-demo with solved training examples
            beside the query as well, head by a new classification head (finetune).
        demos: these examples: how many contexts, which place, filtered by sentence vectors; with --form prompt-demo alone.
        dropout: on or off while training; reference is on or off by the combination, as the published program had it.
        regression_loss: kl, or reference for the published one, which presses values to the middle of their range.
        as_published: --dropout reference and --regression_loss reference together.
        train_score: also score the training examples, for the generalization gap; slow on full data.
        first_sentence_limit: most tokens of each piece that shows the first text.
        other_sentence_limit: the same for the second text.
    """
    if as_published:
        dropout, regression_loss = "reference", "reference"
    if form != "prompt-demo" and demos != Demonstrations():
        raise DeltatuneError(f"--demos acts with --form prompt-demo alone, and --form is {form}")
    asked: Literal["prompt", "head"] = "head" if form == "head" else "prompt"
    config = replace(tuning(delta=BitFit(), **{**options, **_seeded(seed, options)}, form=asked), deltas=())
    shown = replace(demos, seed=demos.seed if seed is None else seed) if form == "prompt-demo" else None
    task = replace(
        config.task,
        label_words=label_words,
        first_sentence_limit=first_sentence_limit,
        other_sentence_limit=other_sentence_limit,
    )
    plan = Plan(Combination(()), replace(config, task=task), template, sizes, dropout, regression_loss)
    return replace(plan, train_score=train_score, demos=shown)


def _seeded(seed: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options that one seed decides."""
    if seed is None:
        return {}
    found: dict[str, Any] = {"init_seed": seed, "data_seed": seed}
    if options.get("shots") is not None:
        found["sample_seed"] = seed
    if (folder := options.get("data_dir")) is not None:
        found["data_dir"] = Path(str(folder).replace("{seed}", str(seed)))
    return found


@sharing(planning)
def run(
    methods: str, out_dir: Path, config_yaml: SavedConfig, tag: str = "", overwrite: bool = False, **options: Any
) -> None:  # fmt: skip
    """Tune one combination of methods together, score it on dev and test, and keep it in a folder.

    The same command run again goes on where an interrupted one stopped, and does nothing where it had finished.

    Args:
        methods: prompt, bias, adapter, lora, prefix or full, several joined by + such as prompt+bias; none scores the untouched
            model (zero-shot).
        out_dir: folder of the run.
        config_yaml: filled in by the program.
        tag: a word of yours that goes into the records.
        overwrite: throw away a run that is in out_dir.
    """
    combination = Combination.parse(methods)
    if len(combination.stages) > 1:
        raise DeltatuneError(f"--methods {methods} has stages; deltatune-combos sequence tunes one after the other")
    plan = replace(planning(**options), combination=combination)
    _show(carry_out(plan, out_dir, {"command": f"{PROGRAM} run", "tag": tag}, config_yaml, overwrite), out_dir)


@sharing(planning)
def sequence(
    stages: list[str],
    out_dir: Path,
    config_yaml: SavedConfig,
    rates: list[float] | None = None,
    handover: Handover = "last",
    tag: str = "",
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Tune one method after another; what was tuned before stays in the model, frozen.

    Each stage has --train.steps updates, an optimizer and a schedule of its own, and a folder below OUT_DIR; its best and its
    last weights are kept. OUT_DIR/delta is the last stage's best, OUT_DIR/curve.png the dev score over all updates. A soft prompt
    stands in the template from the first stage on.

    Args:
        stages: the methods in their order, such as [adapter, prompt, bias]; a stage may be several, joined by +.
        out_dir: folder of the sequence.
        config_yaml: filled in by the program.
        rates: learning rate of each stage; --lr for all by default.
        handover: last, as published: a stage starts where the one before ended; best: from its best weights on dev.
        tag: a word of yours that goes into the records.
        overwrite: throw away a sequence that is in out_dir.
    """
    combination = Combination.parse(">".join(stages))
    if len(combination.stages) < 2:
        raise DeltatuneError(f"--stages [{', '.join(stages)}] is no sequence; give at least two, or use deltatune-combos run")
    given = None if rates is None else tuple(rates)
    plan = replace(planning(**options), combination=combination, rates=given, handover=handover)
    facts = carry_out(plan, out_dir, {"command": f"{PROGRAM} sequence", "tag": tag}, config_yaml, overwrite)
    table = Table("stage", "methods", "trained", "best dev at", "best dev", "last dev", "seconds")
    for number, stage in enumerate(facts["stages"], start=1):
        best = stage["scores"].get("dev", {}).get("value")
        trained = f"{sum(stage['trainable'].values()):,}"
        cells = [_number(best), _number(stage["last_dev"]), f"{stage['train_seconds']:.1f}"]
        table.add_row(str(number), stage["methods"], trained, str(stage["step"]), *cells)
    output().print(table)
    _draw(plan, out_dir)
    _show(facts, out_dir)


def _draw(plan: Plan, out_dir: Path) -> None:
    """`curve.png`: dev score over all updates."""
    points = [(row["step"], row["value"]) for row in read_records(out_dir) if row["kind"] == "curve" and row["value"] is not None]
    steps = plan.config.train.steps
    ends = [steps * number for number in range(1, len(plan.combination.stages))]
    draw_sequence({str(plan.combination): points}, ends, out_dir / "curve.png")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _show(facts: dict[str, Any], out_dir: Path) -> None:
    console = output()
    if facts.get("already_finished"):
        output(error=True).print(f"{out_dir} is finished already; --overwrite does it again", soft_wrap=True)
    show_scores([*facts.get("found", {}).items(), *facts["scores"].items()])
    trainable = ", ".join(f"{kind} {count:,}" for kind, count in facts["trainable"].items()) or "nothing"
    gap = gap_of(facts)
    over = "" if gap is None else f"; train - dev {gap:+.4f}"
    console.print(f"trained: {trainable} in {facts['train_seconds']:.1f} s{over}; kept in {out_dir}", soft_wrap=True)
    for note in facts["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
