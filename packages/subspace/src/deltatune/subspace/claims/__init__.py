"""The paper's findings as executable claims on the built-in world (section 9 of the specification, by its numbers)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deltatune.core.claims import Claim, Context, Control, Effects, Figure, Gate
from deltatune.subspace import figures
from deltatune.subspace.claims.experiments import (
    ON_ENCODER,
    ONE,
    SEVERAL,
    above_original,
    cost_of_transfer,
    failures,
    many_tasks,
    mixing,
    more_sources,
    optimization,
    order_of_targets,
    reconstruction,
    relatedness,
    small_k,
    smaller_k,
    transfer,
)
from deltatune.subspace.claims.further import fine_tuning, region
from deltatune.subspace.claims.measured import ALIKE, ENCODER, MANY, NAMES, OTHER, SAME, SOURCE, UNSEEN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.figure import Figure as Canvas

PAPER = "subspace"

_RANDOM = Control("random", "random decoders with columns of the same lengths do 10 points worse", bound=10.0)
_BESIDE = (
    Control("zero", "better than the initial values, the zero vector"),
    Control("mean_point", "at most 5 points worse than the mean source point, which is not tuned", bound=-5.0),
    Control("chance", "scores are above chance"),
)
CONTROLS = (_RANDOM, *_BESIDE)
TRANSFERRED = (replace(_RANDOM, statement="transfer through random decoders does 15 points worse", bound=15.0), *_BESIDE)
GATES = (
    Gate("solved", "every original solution, of each unseen task and delta, is at least 20 points above chance", at_least=20.0),
    Gate("headroom", "and at least 20 points above the initial values, the zero vector", at_least=20.0),
)


def _heat(figure: Canvas, records: list[dict[str, Any]]) -> None:
    figures.heat(figure, records)


def _bars(figure: Canvas, records: list[dict[str, Any]]) -> None:
    figures.bars(figure, records)


def _maps(figure: Canvas, records: list[dict[str, Any]]) -> None:
    places = dict.fromkeys((row["delta"], row["x"], row["y"]) for row in records)
    own = {at: [row["value"] for row in records if (row["delta"], row["x"], row["y"]) == at] for at in places}
    figures.maps(figure, [{"delta": at[0], "x": at[1], "y": at[2], "value": fmean(own[at])} for at in places], NAMES)


def _line(key: str) -> Callable[[Canvas, list[dict[str, Any]]], None]:
    def draw(figure: Canvas, records: list[dict[str, Any]]) -> None:
        chart, places = figure.subplots(), sorted({row[key] for row in records})
        for name in ("relative", "transfer"):
            if name in records[0]:
                chart.plot(places, [fmean(r[name] for r in records if r[key] == x) for x in places], marker="o", label=name)
        chart.set_xscale("log", base=2)
        chart.set_xticks(places, places)
        chart.set_xlabel(key)
        chart.set_ylabel("% of the original's score")
        chart.legend()

    return draw


def _claim(number: int | str, statement: str, statistic: str, run: Callable[[Context, int], Effects], **more: Any) -> Claim:
    settings: Mapping[str, Any] = {
        "one": ONE.identity(), "several": SEVERAL.identity(), "same": SAME, "alike": ALIKE, "other": OTHER, "unseen": UNSEEN,
    }  # fmt: skip
    defaults = {"controls": CONTROLS, "gates": GATES, "source": "repository tables", "settings": settings, "cost": 46.0}
    return Claim(f"C{number}", PAPER, statement=statement, statistic=statistic, run=run, **{**defaults, **more})


_WAYS = f"subspace of {SOURCE} with k = 4, tasks {', '.join(SAME)}"
_ON_T5 = (
    _claim(1, "Subspace optimization nearly keeps the original performance, single task",
           f"mean relative performance of optimization, {_WAYS}", optimization,
           bound=80.0, tier="headline", paper_value="84.9 %", figures=(Figure("bars", "Optimization and controls.", _bars),)),
    _claim(2, "Solutions transfer between deltas without training, single task",
           f"mean relative performance of the six directions, {_WAYS}", transfer,
           bound=75.0, tier="headline", paper_value="82.6 %", figures=(Figure("transfer", "Source to target.", _heat),),
           controls=(*TRANSFERRED, Control("directions", "every direction is above chance"))),
    _claim(3, "Transfer costs little compared with direct optimization",
           f"optimization minus transfer, paired on task and target, {_WAYS}", cost_of_transfer,
           side="less", bound=10.0, tier="headline", paper_value="2.3 points", controls=TRANSFERRED),
    _claim(4, "A subspace of many tasks works on unseen tasks of several kinds",
           f"mean relative performance of optimization, {len(MANY)} source tasks, k = 16", many_tasks,
           bound=80.0, paper_value="88.7 %", cost=200.0,
           controls=(*CONTROLS, Control("transfer", "transfer keeps 70 %", bound=70.0),
                     Control("random_transfer", "transfer through random decoders does worse"))),
    _claim(5, "More source tasks give a better subspace at one k",
           "relative performance with 8 source tasks minus with 1, mean of three", more_sources,
           paper_value="WSC 68.4 -> 81.3", cost=340.0,
           figures=(Figure("sources", "Optimization against the number of source tasks.", _line("sources")),),
           controls=(*CONTROLS, Control("steps", "no step from 1 over 3 to 8 loses 2 points", bound=-2.0))),
    _claim(6, "Relatedness of source and unseen task decides",
           "relative performance on tasks of the source's kind minus on tasks of other kinds", relatedness,
           bound=15.0, paper_value="100.4 against 68.4", cost=80.0),
    _claim(7, "Four dimensions suffice for a single task",
           "relative performance with k = 32 minus with k = 4", small_k, side="less", bound=5.0, tier="headline", cost=52.0),
    _claim("7-more", "Fewer than four dimensions do worse",
           "relative performance with k = 4 minus with k = 1", smaller_k, cost=120.0, source="implied by the published k",
           figures=(Figure("k", "Optimization and transfer against k.", _line("k")),)),
    _claim(8, "Adapters are the easiest target, prefixes the hardest",
           "mean relative performance of transfer into the adapter minus into the prefix", order_of_targets,
           tier="headline", paper_value="85.1 against 80.6",
           controls=(*TRANSFERRED, Control("adapter_lora", "the adapter is an easier target than LoRA"),
                     Control("lora_prefix", "LoRA is no harder than the prefix by 2 points", bound=-2.0))),
    _claim(9, "Some combinations fail, mainly with prefixes or unrelated tasks",
           "share of the cells at chance that have a prefix or an unrelated task", failures, bound=50.0, cost=80.0,
           gates=(*GATES, Gate("cells", "at least one cell is at chance", at_least=1.0)),
           controls=(*CONTROLS, Control("expected", "more than if failing had nothing to do with either"))),
    _claim(10, "Some transferred solutions beat the original, and most of these by chance",
           "share of the cells above 100 %", above_original, paper_value="QASC P->A 105.2",
           controls=(*CONTROLS, Control("significant", "at most 10 % of the cells are above it significantly", "less", 10.0))),
    _claim(11, "Mixing in the shared space creates the transfer",
           "transfer with mixing minus the better of own points alone and reconstruction alone", mixing,
           bound=10.0, tier="headline", source="implied by the published program", cost=60.0,
           controls=(*TRANSFERRED, Control("optimization", "optimization gains less than transfer"))),
    _claim("11-task", "Reconstruction helps the transfer",
           "transfer with both terms minus with the task loss alone", reconstruction,
           source="implied by the published program", controls=TRANSFERRED),
    _claim(12, "The triangle of the three points has a large common region where all deltas work",
           "share of the triangle where every delta has 90 % of its own best score", region,
           bound=30.0, source="from memory, unverified",
           figures=(Figure("triangle", "The triangle of the three points, mean over seeds.", _maps),),
           controls=(*CONTROLS, Control("correlation", "the three maps agree in rank", bound=0.5))),
    _claim(13, "Fine-tuning shares the subspace: a fourth delta transfers to and from the others",
           "the lesser of mean transfer into the fourth delta and from it", fine_tuning,
           bound=70.0, source="from memory, unverified", controls=TRANSFERRED),
)  # fmt: skip

_ENCODERS = {"C1": optimization, "C2": transfer, "C3": cost_of_transfer, "C8": order_of_targets}
_ENCODER = tuple(
    replace(
        claim, id=f"{claim.id}-encoder", statement=f"{claim.statement}, on the encoder", tier="all",
        run=partial(_ENCODERS[claim.id], setup=ON_ENCODER),
        statistic=f"{claim.statistic}, on {ENCODER} asked by prompt", settings={**claim.settings, "one": ON_ENCODER.identity()},
    )
    for claim in _ON_T5
    if claim.id in _ENCODERS
)  # fmt: skip

CLAIMS = (*_ON_T5, *_ENCODER)
