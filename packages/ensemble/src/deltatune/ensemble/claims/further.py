"""What `deltatune-ensemble reproduce --all` runs besides."""

from __future__ import annotations

from deltatune.core.claims import Control, Figure, Gate
from deltatune.ensemble.claims import figures, measured, transfer
from deltatune.ensemble.claims.bench import KINDS, SETTINGS, SOLVED
from deltatune.ensemble.claims.headlines import ARMS, ROOM, claim
from deltatune.ensemble.claims.starts import FIVE

FURTHER = (
    claim(
        id="C1-five",
        statement="The five methods beat initial values and the plain average of sources on average",
        source="abstract",
        statistic="mean test score of the five methods (T chosen on dev) minus from initial values, 6 targets",
        run=transfer.five_beat_baselines,
        controls=(
            Control("average", "also better than from the average of all sources"),
            Control("single", "also better than from the best single source by Loss"),
        ),
        gates=(SOLVED, ROOM),
        paper_value="5% to 8% over the baselines",
        cost=50.0,
        figures=ARMS,
    ),
    claim(
        id="C2",
        statement="It works for adapters, LoRA and prefixes",
        source="abstract",
        statistic="C1's gain over initial values, mean of the three kinds",
        run=transfer.three_kinds,
        controls=tuple(Control(kind, f"{kind} alone gains") for kind in KINDS),
        gates=(SOLVED, ROOM),
        cost=50.0,
        figures=ARMS,
    ),
    claim(
        id="C3",
        statement="It works over a wide set of tasks",
        source="abstract",
        statistic="share of 24 targets that after 20 updates are higher from the mixture by Loss than from initial values",
        run=transfer.many_tasks,
        controls=(
            Control(
                "average", "also more often higher than from the average of all sources (a tie is half), percent", "greater", 50.0
            ),
            Control("size", "the gain over initial values, in points added to 50, is above 0", "greater", 50.0),
        ),
        gates=(SOLVED, ROOM),
        bound=50.0,
        unit="percent",
        cost=75.0,
        figures=ARMS,
    ),
    claim(
        id="C6",
        statement="The measures that need data agree with each other",
        source="expected, not published",
        statistic="rank correlation over 23 sources, mean of all pairs of the five measures, 6 targets",
        run=measured.measures_agree,
        controls=tuple(Control(name, f"{name} agrees with the others") for name in FIVE),
        gates=(SOLVED,),
        bound=0.5,
        unit="correlation",
        cost=25.0,
    ),
    claim(
        id="C9",
        statement="Division by hand beats the average of all, and learned weights beat division by hand",
        source="from memory",
        statistic="score from the mixture weighted by Loss minus from the average within the target's category, 6 targets",
        run=transfer.manual_division,
        controls=(
            Control("manual", "the average within the category is better than that of all sources"),
            Control("five", "the mean of the five methods is better than the average within the category"),
        ),
        gates=(SOLVED, ROOM),
        cost=10.0,
        figures=ARMS,
    ),
    claim(
        id="C10",
        statement="Sub-layers differ in importance, and weights from one of them can replace those from the whole delta",
        source="from memory",
        statistic="rank correlation over 10 sub-layers whose GraNd weighs the sources: "
        "scores after 20 updates, two halves of targets",
        run=measured.modules_differ,
        controls=(
            Control("variance", "the variance between sub-layers is more than noise explains, points squared"),
            Control("whole", "the sub-layer that is best on dev loses at most 1 point against the whole delta", "greater", -1.0),
        ),
        gates=(SOLVED,),
        unit="correlation",
        resampled="seed",
        cost=80.0,
        figures=(Figure("modules", "Test score by the sub-layer whose gradients weigh the sources.", figures.modules),),
    ),
    claim(
        id="C11",
        statement="The gain shrinks with more examples of the target",
        source="paths in the repository's history; outcome from memory",
        statistic="slope of the gain over initial values on log2 of 8, 16, 64 and 128 examples of each class, 6 targets",
        run=transfer.gain_by_shots,
        controls=(Control("few", "with 8 examples there is a gain"),),
        gates=(SOLVED, ROOM),
        settings={**SETTINGS, "sizes": transfer.SIZES},
        side="less",
        unit="points for each doubling",
        cost=60.0,
        figures=(Figure("shots", "Gain over initial values by the number of examples of each class.", figures.shots),),
    ),
    claim(
        id="C12",
        statement="Tuning converges faster from the weighted mixture",
        source="from memory",
        statistic="updates until 90% of the dev score that initial values end with, as a share of what these need, 6 targets",
        run=transfer.convergence,
        controls=(Control("average", "fewer than from the average of all sources", "less"),),
        gates=(SOLVED, Gate("learned", "from initial values the targets end 10 points above chance or more", at_least=10.0)),
        settings={**SETTINGS, "close": transfer.CLOSE},
        side="less",
        bound=1.0,
        unit="share",
        cost=30.0,
        figures=(Figure("curves", "Mean dev score by update from each start.", figures.convergence),),
    ),
    claim(
        id="C13",
        statement="Weights read from the deltas themselves, and from short runs, beat initial values",
        source="its programs; outcome from memory",
        statistic="score from the mixture weighted by the cosine of weights minus from initial values, 6 targets",
        run=transfer.read_from_weights,
        controls=(
            Control("euclidean", "Euclidean (6 sources, each tuned on the target) gains as well"),
            Control("performance", "Performance (the same runs) gains as well"),
        ),
        gates=(SOLVED, ROOM),
        cost=30.0,
        figures=ARMS,
    ),
)
