"""The paper's claims as executable experiments on the built-in world (`deltatune-modeconn reproduce`)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deltatune.core.claims import Claim, Control, Figure, Gate
from deltatune.modeconn.claims import experiments as run
from deltatune.modeconn.claims.bench import ABOVE, GOOD, SETTINGS, TEXT, TEXT_SETTINGS, VOID, Experiment, redrawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_SECOND = 2.0


def _draw_lines(figure: Canvas, records: list[dict[str, Any]]) -> None:
    """Mean dev loss over seeds along each kind of line."""
    axes = figure.subplots()
    for name in dict.fromkeys(row["pair"] for row in records if row["pair"] != "void"):
        own = [row for row in records if row["pair"] == name]
        places = sorted({row["x"] for row in own})
        values = [[row["loss"] for row in own if row["x"] == x] for x in places]
        axes.plot(places, [sum(found) / len(found) for found in values], marker="o", markersize=3, label=name)
    axes.set_xlabel("place on the path")
    axes.set_ylabel("dev loss, mean over seeds")
    axes.legend(frameon=False)


_LINES = (Figure("lines", "Mean dev loss over seeds along each kind of path.", _draw_lines),)


def _claim(run: Experiment, gates: tuple[Gate, ...], **declared: Any) -> Claim:
    """A claim whose pairs are drawn again where an end is not good."""
    settings = declared.pop("settings", SETTINGS)
    return Claim(paper="modeconn", settings=settings, run=partial(redrawn, run, gates), gates=(*gates, VOID), **declared)


_ENCODER = (
    _claim(
        id="C1",
        statement="Initial values matter: the barrier between adapters that differ in them is larger than with another order",
        source="abstract",
        statistic="loss barrier between two initial values minus that between two orders of data, dev",
        run=run.initialisation_matters,
        controls=(Control("aligned", "also after the hidden units are matched"),),
        gates=GOOD,
        unit="nats",
        tier="headline",
        cost=15.0,
        figures=_LINES,
    ),
    _claim(
        id="C2",
        statement="Fine-tuning is better connected along the line than adapters",
        source="summaries of the paper",
        statistic="loss barrier of adapters minus that of fine-tuning, two seeds each (of fine-tuning: two orders), dev",
        run=run.fine_tuning_is_straighter,
        controls=(
            Control("aligned", "also after the adapters' hidden units are matched"),
            Control("shared", "adapters with shared initial values have a lower barrier than those without"),
        ),
        gates=(*GOOD, Gate("matched", "fine-tuning and adapters score within 2 points of each other on dev", at_most=2.0)),
        unit="nats",
        cost=40.0,
        figures=_LINES,
    ),
    _claim(
        id="C3",
        statement="Where the line has a barrier, a quadratic curve removes most of it",
        source="summaries of the paper; its curve programs",
        statistic="barrier along the learned curve in percent of the line's, dev, 26 places",
        run=run.curve_removes_the_barrier,
        controls=(Control("test", "on test as well", "less", 30.0),),
        gates=(*GOOD, Gate("barrier", "the line has a barrier of at least 0.02 nats", at_least=0.02)),
        side="less",
        bound=30.0,
        unit="percent",
        tier="headline",
        cost=6.0,
        figures=_LINES,
    ),
    _claim(
        id="C4",
        statement="More pre-training improves the connectivity of minima tuned from the same checkpoint",
        source="abstract",
        statistic="rank correlation of the step of pre-training and the barrier of a fine-tuned pair, three snapshots",
        run=run.pretraining_connects,
        controls=(Control("relative", "also of the barrier relative to the ends' loss", "less"),),
        gates=GOOD,
        side="less",
        unit="correlation",
        tier="headline",
        cost=20.0,
        figures=_LINES,
    ),
    _claim(
        id="C5",
        statement="Pre-training pulls task boundaries closer",
        source="abstract",
        statistic="rank correlation of the step and the area under the lesser of two tasks' scores on their line",
        run=run.pretraining_joins_tasks,
        controls=(Control("last", "the area at the end of pre-training is larger than at the first snapshot"),),
        gates=(ABOVE,),
        unit="correlation",
        cost=60.0,
    ),
    _claim(
        id="C6",
        statement="Minima from two halves of the data are connected almost as well as those from the same data",
        source="from memory; its scripts",
        statistic="drop on the line between halves minus that between orders of the same data, dev",
        run=run.halves_are_connected,
        controls=(Control("same", "the same data in another order drop by at most 4 points", "within", 4.0),),
        gates=GOOD,
        side="within",
        bound=4.0,
        cost=40.0,
        figures=_LINES,
    ),
    _claim(
        id="C7",
        statement="Another domain of the task is less well connected than the same data, and better than another task",
        source="from memory; its scripts",
        statistic="drop on the line to another task minus that to another domain, both ends' dev data",
        run=run.domains_are_nearer_than_tasks,
        controls=(Control("same", "the drop to another domain is larger than to another order of the same data"),),
        gates=(ABOVE,),
        cost=50.0,
    ),
    _claim(
        id="C8",
        statement="Between adapters of different initial values the barrier grows; late steps of one run stay connected",
        source="from memory; its scripts",
        statistic="slope of the loss barrier against the logarithm of the step",
        run=run.barriers_grow_with_training,
        controls=(Control("late", "fine-tuning between late steps of one run drops by at most 2 points", "less", _SECOND),),
        gates=GOOD,
        unit="nats",
        cost=40.0,
        figures=_LINES,
    ),
    _claim(
        id="C9",
        statement="Learning rate and batch size matter less than initial values",
        source="from memory",
        statistic="barrier between initial values minus the greatest between half and double rates and batches, dev",
        run=run.rates_matter_less,
        controls=(Control("order", "initial values matter more than the order of data"),),
        gates=GOOD,
        unit="nats",
        cost=60.0,
    ),
    _claim(
        id="C10",
        statement="Along the path examples are forgotten and others absorbed, even where accuracy hardly changes",
        source="abstract",
        statistic="percent of the steps with less than 1 point of change at which both happen, 500 training examples, 6 points",
        run=run.examples_come_and_go,
        controls=(Control("again", "one model evaluated twice forgets nothing", "within", 0.0, exact=True),),
        gates=(Gate("quiet", "at least one step changes accuracy by less than 1 point", at_least=1.0), *GOOD),
        bound=50.0,
        unit="percent",
        tier="headline",
        cost=4.0,
    ),
    _claim(
        id="C11",
        statement="Forgotten examples are the hard ones: lower confidence and correctness than those that stay right",
        source="from memory",
        statistic="mean confidence while training of what stays right minus that of what is forgotten, first errors left out",
        run=run.hard_examples_are_forgotten,
        controls=(Control("correctness", "their correctness is lower as well"),),
        gates=(Gate("forgotten", "at least 10 examples are forgotten", at_least=10.0),),
        cost=40.0,
    ),
    _claim(
        id="C12",
        statement="Points better than both ends exist",
        source="its path programs",
        statistic="gain on test of the point that is best on dev over the end better on dev; fine-tuning and adapters",
        run=run.points_beat_both_ends,
        controls=(Control("loss", "its test loss is not above that of the better end", "less"),),
        gates=GOOD,
        tier="headline",
        cost=7.0,
    ),
    _claim(
        id="C13",
        statement="Learned mixing reaches a dev loss not above the better end; finer groups fit better",
        source="its mixing programs (no stated result)",
        statistic="lowest dev loss of mixtures by block, layer and weight, started near one half, minus the better end's",
        run=run.mixing_is_no_worse,
        controls=(
            Control("finer", "single tensors fit the training examples better than blocks", "less"),
            Control("start", "starting near one half is no worse than at random ends", "less"),
        ),
        gates=GOOD,
        side="less",
        unit="nats",
        cost=60.0,
    ),
    _claim(
        id="C14",
        statement="Distance alone does not decide: its rank correlation with the barrier is not strong",
        source="from memory",
        statistic="absolute rank correlation of L2 distance and loss barrier over six pairs",
        run=run.distance_does_not_decide,
        controls=(Control("spread", "the longest distance is at least 1.2 times the shortest", "greater", 1.2),),
        gates=GOOD,
        side="less",
        bound=0.8,
        unit="correlation",
        tier="headline",
        cost=2.0,
    ),
)

# The pair of the published curve script, and three findings on the text-to-text model.
_C3 = next(claim for claim in _ENCODER if claim.id == "C3")


def _variant(claim: Claim, name: str, experiment: Experiment, **changes: Any) -> Claim:
    """The claim with another experiment under the same conditions."""
    gates = tuple(gate for gate in claim.gates if gate != VOID)
    return replace(claim, id=f"{claim.id}-{name}", run=partial(redrawn, experiment, gates), tier="all", **changes)


_WIDE = _variant(
    _C3,
    "std",
    partial(run.curve_removes_the_barrier, std=0.08),
    statement="The same between adapters that start from other spreads, 0.02 and 0.08",
)


_ON_TEXT = {
    "C1": partial(run.initialisation_matters, base=TEXT),
    "C2": partial(run.fine_tuning_is_straighter, base=TEXT),
    "C12": partial(run.points_beat_both_ends, base=TEXT),
}

_TEXT = (
    _variant(claim, "t5", _ON_TEXT[claim.id], settings=TEXT_SETTINGS, cost=3 * claim.cost)
    for claim in _ENCODER
    if claim.id in _ON_TEXT
)

CLAIMS = (*_ENCODER, _WIDE, *_TEXT)
