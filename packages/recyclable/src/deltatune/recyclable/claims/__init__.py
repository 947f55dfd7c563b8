"""The paper's claims as executable experiments on the built-in world (`deltatune-recyclable reproduce`)."""

from __future__ import annotations

from functools import partial

from deltatune.core.claims import Claim, Control, Figure, Gate
from deltatune.recyclable.claims import compatibility, figures, lending, training, upgrading
from deltatune.recyclable.claims.bench import SETTINGS, SOLVED
from deltatune.recyclable.claims.lending import SERIES
from deltatune.recyclable.claims.measures import MEASURES
from deltatune.recyclable.claims.upgrading import MAP_UPDATES, MAPS, RANK

_claim = partial(Claim, paper="recyclable", settings={**SETTINGS, **MEASURES})
_ENDS = Gate("ends", "the worst of the tuned ends scores at least 10 points above chance", at_least=10.0)
_LEARNED = Gate("learned", "trained afresh, the upgraded base ends at least 10 points above chance", at_least=10.0)
_ROOM = Gate("room", "without help the few-shot runs end at 95 points at most, which leaves room", at_most=95.0)

_MEASURED = (
    _claim(
        id="C1",
        statement="An upgraded base stays compatible with outdated weights: applied untouched they keep working",
        source="abstract",
        statistic="fine-tuned weights applied to m1 minus the same on the independently pre-trained base, test, two tasks",
        run=compatibility.compatible,
        controls=(
            Control("head", "more by 20 points than the old head alone carries", "greater", 20.0),
            Control("random", "more than random differences of each tensor's length with the old head"),
            Control("untuned", "more than the upgraded base with a fresh head"),
        ),
        gates=(SOLVED,),
        bound=20.0,
        tier="headline",
        cost=20.0,
        figures=(
            Figure("scores", "Test scores of outdated weights and of the controls, nothing trained.", figures.compatibility),
        ),
    ),
    _claim(
        id="C2",
        statement="Compatibility falls as continual pre-training goes on over more stages",
        source="from memory",
        statistic="test loss of outdated fine-tuned weights on m3 minus that on m1, two tasks",
        run=compatibility.fades,
        controls=(
            Control("second", "it rises from m1 to m2"),
            Control("third", "it rises from m2 to m3"),
            Control("forgetting", "more than what the stages lose when they are tuned afresh (aspect)"),
            Control("independent", "on m3 it is lower than on the base of other origin after as many stages"),
        ),
        gates=(SOLVED,),
        unit="nats",
        tier="headline",
        cost=8.0,
        figures=(Figure("stages", "Loss and score of outdated weights by stage of pre-training.", figures.stages),),
    ),
    _claim(
        id="C3",
        statement="The tuned old base and the tuned upgraded base are linearly mode-connected",
        source="abstract",
        statistic="loss barrier on the line between both, base, delta and head together, 26 places, test",
        run=compatibility.connected,
        controls=(Control("independent", "below a fifth of the barrier to the tuned base of other origin", "less"),),
        gates=(_ENDS,),
        side="less",
        bound=0.1,
        unit="nats",
        tier="headline",
        cost=12.0,
        figures=(Figure("lines", "Mean test loss and score over seeds along both lines.", figures.lines),),
    ),
    _claim(
        id="C4",
        statement="The attention heads of the tuned old base and of the tuned upgraded base stay alike",
        source="abstract",
        statistic="correlation of heads of one number with the upgraded base minus that with the base of other origin",
        run=compatibility.alike,
        controls=(
            Control("matched", "also where the heads of the other base are paired as well as can be"),
            Control("random", "more than with an untrained model, its heads paired as well as can be"),
            Control("untuned", "the same sign before anything is tuned"),
        ),
        gates=(_ENDS,),
        bound=0.2,
        unit="correlation",
        cost=10.0,
        figures=(Figure("heads", "Mean correlation of attention heads with those of the tuned old base.", figures.correlations),),
    ),
    _claim(
        id="C5",
        statement="Continually pre-trained versions stay close in parameter space",
        source="its distance program; from memory",
        statistic="L2 from m0 to m1 in percent of that to the base of other origin, floating parameters",
        run=compatibility.near,
        controls=(
            Control("second", "m2 is farther than m1", exact=True),
            Control("third", "m3 is farther than m2", exact=True),
            Control("last", "even m3 is within half the distance of its counterpart of other origin", "less", exact=True),
            Control("random", "m1 is within half the distance of untrained weights", "less", exact=True),
        ),
        side="less",
        bound=50.0,
        unit="percent",
        exact=True,
        cost=5.0,
        figures=(Figure("distances", "Distance of each base from the old one.", figures.distances),),
    ),
)

_REUSED = (
    _claim(
        id="C6",
        statement="Outdated weights as initialization speed up convergence",
        source="abstract",
        statistic="updates saved until 95% of the final dev score of training afresh, in percent, all examples, fine-tuning",
        run=training.speeds_up,
        controls=(
            Control("fresh_head", "the old delta alone saves some, with a fresh head of another seed"),
            Control("head", "both save more than the old head alone"),
            Control("independent", "they save more than on the base of other origin"),
        ),
        gates=(SOLVED, _LEARNED),
        bound=50.0,
        unit="percent",
        tier="headline",
        cost=25.0,
        figures=(Figure("curves", "Mean dev score by update from each start.", figures.convergence),),
    ),
    _claim(
        id="C7",
        statement="Outdated weights as initialization improve the final performance",
        source="abstract",
        statistic="final test score from outdated weights minus afresh, sixteen examples of each class, fine-tuning",
        run=training.ends_higher,
        controls=(
            Control("head", "higher than from the old head alone"),
            Control("random", "higher than from random differences of each tensor's length with the old head"),
            Control("independent", "higher than from the same weights on the base of other origin"),
        ),
        gates=(SOLVED, _ROOM),
        tier="headline",
        cost=12.0,
        figures=(Figure("scores", "Final test scores from each start.", figures.scores),),
    ),
    _claim(
        id="C8",
        statement="Outdated weights of a similar task also help",
        source="from memory",
        statistic="updates saved on aspect-0 by the delta of aspect-1 minus by that of paraphrase-0, percent, head fresh in both",
        run=training.similar_task,
        controls=(
            Control("unrelated", "the unrelated delta costs at most a tenth more updates than none", "greater", -10.0),
            Control("similar", "the similar task's delta saves some"),
            Control("head", "with its own head it saves more than that head alone"),
        ),
        gates=(SOLVED, _LEARNED),
        unit="percent",
        cost=30.0,
        figures=(Figure("curves", "Mean dev score by update from each start.", figures.convergence),),
    ),
)

_TAUGHT = (
    _claim(
        id="C9",
        statement="Distillation from the outdated model improves few-shot tuning of the upgraded base",
        source="abstract",
        statistic="final test score with a teacher minus without, sixteen examples of each class, mean of two series",
        run=lending.teacher_helps,
        controls=(
            Control("loss", "the test loss falls as well, in nats", "less"),
            Control("untuned", "more than with the old base as teacher that nobody tuned"),
        ),
        gates=(SOLVED, _ROOM),
        settings={**SETTINGS, "series": SERIES},
        cost=40.0,
        figures=(
            Figure("scores", "Final test scores of each student; 0 and 10 are weights of the layer-wise term.", figures.scores),
        ),
    ),
    _claim(
        id="C10",
        statement="The layer-wise term improves distillation further",
        source="from memory",
        statistic="final test score with its weight of 10, 50 or 100, chosen on dev, minus without it, mean of two series",
        run=lending.layers_help,
        controls=(
            Control("loss", "the test loss falls as well, in nats", "less"),
            Control("plain", "more than without a teacher"),
        ),
        gates=(SOLVED, _ROOM),
        settings={**SETTINGS, "series": SERIES},
        cost=25.0,
        figures=(Figure("scores", "Final test scores of each student by the weight of the layer-wise term.", figures.scores),),
    ),
    _claim(
        id="C11",
        statement="Initialization and distillation combine to be best",
        source="abstract",
        statistic="final test score of both minus the mean of each alone, on m3, sixteen examples of each class, fine-tuning",
        run=training.combine_best,
        controls=(
            Control("init", "at most 1 point below initialization alone", "greater", -1.0),
            Control("distill", "at most 1 point below distillation alone", "greater", -1.0),
            Control("afresh", "higher than neither"),
            Control("head", "higher than with the old head alone in place of the old weights"),
        ),
        gates=(SOLVED, Gate("hard", "initialization alone ends at 95 points at most", at_most=95.0)),
        tier="headline",
        cost=12.0,
        figures=(Figure("scores", "Final test scores of each method.", figures.scores),),
    ),
    _claim(
        id="C12",
        statement="All of this holds for adapters as for fine-tuning: C1, C3, C6 and C9",
        source="readme",
        statistic="C1 with adapters of width 8; the others are its controls, in their own units",
        run=lending.adapters_alike,
        controls=(
            Control("C1 head", "more by 20 points than the old head alone carries", "greater", 20.0),
            Control("C3 barrier", "a loss barrier below 0.1 nats", "less", 0.1),
            Control("C3 independent", "below a fifth of that to the base of other origin, nats", "less"),
            Control("C6 updates", "at least half of the updates saved, percent", "greater", 50.0),
            Control("C6 fresh head", "some saved with a fresh head, percent"),
            Control("C9 teacher", "a higher few-shot score with a teacher, points"),
        ),
        gates=(SOLVED, _ENDS),
        bound=20.0,
        cost=60.0,
        figures=(Figure("claims", "What adapters measured, each claim in its own unit.", figures.verdicts, (8.0, 3.0)),),
    ),
    _claim(
        id="C13",
        statement="A projection learnt on some tasks upgrades the outdated weights of an unseen task without training",
        source="summaries of the paper's appendix",
        statistic="projected adapter on m3 minus the same untouched, test; learnt on five label maps, applied to the sixth",
        run=upgrading.projected,
        controls=(
            Control("pairs", "better than a projection learnt on wrongly paired tasks"),
            Control("mean", "better than the mean of the five tasks' new adapters"),
            Control("head", "untouched, the adapter is better than its head alone"),
        ),
        gates=(SOLVED, Gate("room", "untouched it scores at most 95 points", at_most=95.0)),
        settings={**SETTINGS, "maps": MAPS, "map_updates": MAP_UPDATES, "rank": RANK},
        cost=25.0,
        figures=(Figure("scores", "Test scores of the sixth map on the last stage.", figures.scores),),
    ),
)

CLAIMS = (*_MEASURED, *_REUSED, *_TAUGHT)
