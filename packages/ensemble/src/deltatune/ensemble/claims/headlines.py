"""What `deltatune-ensemble reproduce` runs."""

from __future__ import annotations

from functools import partial

from deltatune.core.claims import Claim, Control, Figure, Gate
from deltatune.ensemble.claims import alignment, figures, measured, sizes, transfer
from deltatune.ensemble.claims.bench import SETTINGS, SOLVED

claim = partial(Claim, paper="ensemble", settings=SETTINGS, resampled="cluster")
ROOM = Gate(
    "room", "tuned from initial values, targets stay 3 points below their own sources or more, which leaves room", at_least=3.0
)
ARMS = (Figure("scores", "Test scores after tuning from each start; dots are targets and seeds.", figures.scores),)

HEADLINES = (
    claim(
        id="C1",
        statement="A start weighted by Loss beats initial values and the plain average of sources",
        source="abstract",
        statistic="test score tuned from the mixture weighted by Loss (T chosen on dev) minus from initial values, 6 targets",
        run=transfer.beats_baselines,
        controls=(
            Control("average", "also better than from the average of all sources"),
            Control("dealt", "also better than with the same weights dealt to the sources at random"),
        ),
        gates=(SOLVED, ROOM),
        paper_value="5% to 8% over the baselines",
        tier="headline",
        cost=25.0,
        figures=ARMS,
    ),
    claim(
        id="C4",
        statement="The source that is nearest by its loss is of the target's category",
        source="the matrix published with the program",
        statistic="share of 12 targets whose nearest foreign source by Loss is of their kind, minus chance (3 of 23)",
        run=measured.finds_the_category,
        controls=(
            Control("el2n", "above chance by EL2N"),
            Control("label_cosine", "above chance by the cosine of predictions and labels"),
            Control("mass", "the weight on the category at T = 0.1 is above chance"),
        ),
        gates=(SOLVED,),
        paper_value="29 of 32 targets (90.6%), chance 12.1 of 32; 89% of the weight at T = 0.1",
        settings={**SETTINGS, "near": measured.NEAR},
        tier="headline",
        cost=12.0,
        figures=(Figure("hits", "Share of targets whose nearest source is of their kind.", figures.hits),),
    ),
    claim(
        id="C5",
        statement="Adapter 12, LoRA 10 and prefix 120 through 24 have one budget on T5-base: 1,105,920 parameters, 0.445%",
        source="scripts",
        statistic="largest minus smallest number of parameters",
        run=sizes.equal_budgets,
        controls=(
            Control("number", "the adapter has 1,105,920", "within", 0.0),
            Control("share", "which is 0.445% of all parameters, in percent", "within", 0.0005),
        ),
        settings={},
        side="within",
        unit="parameters",
        resampled="seed",
        paper_value="1,105,920 each, 0.445%",
        tier="headline",
        seeds=1,
        exact=True,
        cost=3.0,
    ),
    claim(
        id="C7",
        statement="Similarity predicts transfer: the lower a source's loss on the target, the better a start it is",
        source="premise of the method",
        statistic="rank correlation over 6 sources (a kind each) of negative loss and test score after 20 updates, 4 targets",
        run=measured.predicts_transfer,
        controls=(Control("specific", "more than with the losses of the same sources on the other targets"),),
        gates=(SOLVED, Gate("spread", "the best and the worst source are 3 points apart or more", at_least=3.0)),
        unit="correlation",
        tier="headline",
        cost=20.0,
        figures=(Figure("transfer", "Loss before and test score after tuning from each source.", figures.transfer),),
    ),
    claim(
        id="C8",
        statement="The temperature goes from the best source alone to the average, and a value between is better than both",
        source="formula; the second half is expected, not published",
        statistic="test loss of the better end minus that of the mixture at the interior T of least dev loss, untuned, 6 targets",
        run=measured.temperature,
        controls=(
            Control(
                "limits", "weights at both limits are those of the best source and of the average", "within", 0.0, exact=True
            ),
            Control("dev", "also on dev, where T was chosen"),
        ),
        gates=(SOLVED,),
        unit="nats",
        paper_value="at T = 0.1 the weights amount to 3.0 sources (median; 1.0 to 7.3)",
        settings={**SETTINGS, "interior": measured.INTERIOR},
        tier="headline",
        cost=6.0,
        figures=(
            Figure("temperature", "Loss of the untuned mixture by temperature, mean over targets and seeds.", figures.losses),
        ),
    ),
    claim(
        id="C14",
        statement="Sources must begin with equal values: averages and mixtures of others gain less",
        source="control; premise of averaging",
        statistic="score from sources of one start minus from sources of six starts, 20 updates from average and Loss, 4 targets",
        run=alignment.one_start_is_needed,
        controls=(
            Control("average", "the average loses"),
            Control("weighted", "the mixture weighted by Loss loses"),
            Control("shuffled", "the average also loses where the hidden units of equal functions are put in other orders"),
        ),
        gates=(SOLVED, Gate("alike", "both sets of sources are within 2 points on their own tasks", at_most=2.0)),
        tier="headline",
        cost=20.0,
        figures=ARMS,
    ),
)
