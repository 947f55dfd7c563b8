"""What the paper claims about combinations and orders, as experiments on the built-in world (specification, section 9).

Every method has one rate, fixed beforehand; no claim chooses a rate by what it reports. Dropout is on for all methods. The
control `prompt last` repeats a finding about soft prompts with the prompt behind the text: there it moves no word, so that a
model that never saw longer texts cannot be the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deltatune.combos.claims.experiments import (
    TEMPLATES,
    adapter_is_enough,
    best_differs,
    combining_helps,
    gaps,
    orders_compare,
    prompt_costs,
    singles,
    sizes,
    steps_cost,
    templates_fade,
    templates_help,
)
from deltatune.combos.claims.measured import CONTEXTS, DATA, ORDERS, RATES, TASKS
from deltatune.combos.claims.searching import demonstrations_help, filtering_helps, templates_match, words_match
from deltatune.core.claims.claim import Claim, Control, Figure, Gate

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_SETTINGS: Mapping[str, Any] = {"tasks": TASKS, "data": DATA, "rates": RATES}
_GATES = (
    Gate("above_chance", "the best method scores at least 5 points above chance", at_least=5.0),
    Gate("no_ceiling", "the best method scores at most 98 points", at_most=98.0),
)


def _bars(value: str) -> Callable[[Canvas, list[dict[str, Any]]], None]:
    """Bars of the mean of `value` over seeds, one for each combination, a group for each template."""

    def draw(figure: Canvas, records: list[dict[str, Any]]) -> None:
        axes = figure.subplots()
        rows = [row for row in records if value in row]
        names, kinds = (list(dict.fromkeys(row.get(key, "") for row in rows)) for key in ("methods", "template"))
        for number, kind in enumerate(kinds):
            own = [[row[value] for row in rows if (row["methods"], row.get("template", "")) == (name, kind)] for name in names]
            places = [place + 0.8 * number / len(kinds) for place in range(len(names))]
            axes.bar(places, [fmean(found) if found else 0.0 for found in own], 0.76 / len(kinds), label=kind or None)
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
        axes.set_ylabel(value)
        if any(kinds):
            axes.legend()

    return draw


def _orders(figure: Canvas, records: list[dict[str, Any]]) -> None:
    axes = figure.subplots()
    for order in ORDERS:
        own = [row for row in records if row["methods"] == order]
        axes.plot(
            [1, 2, 3], [fmean(row[stage] for row in own) for stage in ("first", "second", "third")], marker="o", label=order
        )
    axes.set_xticks([1, 2, 3])
    axes.set_xlabel("stage")
    axes.set_ylabel("dev score, points")
    axes.legend(fontsize=7)


_UNTUNED = Control("untuned", "it scores higher than the untuned model asked by the same template")
_claim = partial(Claim, paper="combos", source="section on combining methods")
_FIRST = tuple(Control(f"{name}, {t}", f"{name} alone, template {t}") for name in ("adapter", "bias") for t in TEMPLATES)
_PROMPT_LAST = Control("prompt last", "also with the prompt behind the text, where it moves no word")

CLAIMS = (
    _claim(
        "C1",
        statement="With 16 shots a soft prompt alone scores below BitFit and adapters",
        run=singles,
        statistic="mean of adapter - prompt and BitFit - prompt over both templates, test score, mean over tasks",
        controls=(*_FIRST, _PROMPT_LAST),
        gates=_GATES,
        settings=_SETTINGS,
        tier="headline",
        cost=28.0,
        paper_value="15 to 18 points",
        figures=(Figure("singles", "Single methods with both templates.", _bars("score")),),
    ),
    _claim(
        "C1-full",
        statement="With all training examples a soft prompt alone scores below BitFit and adapters",
        run=partial(singles, data="full"),
        statistic="as C1, on all training examples",
        controls=(*_FIRST, _PROMPT_LAST),
        gates=_GATES,
        settings=_SETTINGS,
        cost=150.0,
        paper_value="9 to 10 points",
    ),
    _claim(
        "C2",
        statement="With all training examples no combination beats adapters alone on average",
        run=adapter_is_enough,
        statistic="mean over the combinations with adapters of their score minus that of adapters alone, mean over tasks",
        controls=(_UNTUNED,),
        gates=_GATES,
        settings=_SETTINGS,
        side="less",
        bound=0.5,
        cost=120.0,
        paper_value="87.4 against at most 87.3",
    ),
    _claim(
        "C3",
        statement="With all training examples a soft prompt added to adapters lowers the score",
        run=prompt_costs,
        statistic="with minus without soft prompt, mean over adapters and BitFit with adapters, and over tasks",
        side="less",
        controls=(Control("prompt last", "also with the prompt behind the text, where it moves no word", "less"),),
        gates=_GATES,
        settings=_SETTINGS,
        cost=120.0,
        paper_value="-0.8 and -0.1 points",
    ),
    _claim(
        "C4",
        statement="With 16 shots the best combination beats the best single method",
        run=combining_helps,
        statistic="test score of the combination that is best on dev minus that of the best single method, mean over tasks",
        controls=(_UNTUNED,),
        gates=_GATES,
        settings=_SETTINGS,
        tier="headline",
        cost=28.0,
        paper_value="61.9 - 60.8 and 66.2 - 65.2 with rates chosen on test",
        figures=(Figure("combinations", "Test score of each combination.", _bars("test")),),
    ),
    _claim(
        "C5",
        statement="A hand-written template helps without tuning and with 16 shots",
        run=templates_help,
        statistic="score with minus score without the template, mean over single methods and tasks",
        controls=(Control("zero-shot", "the untuned model gains too"),),
        settings=_SETTINGS,
        tier="headline",
        cost=28.0,
        gates=(
            *_GATES,
            Gate("zero_shot", "the untuned model with the template scores at least 2 points above chance", at_least=2.0),
        ),
        paper_value="+4.4 to +7.1, untuned +19.7 points",
        figures=(Figure("templates", "Both templates, untuned and tuned.", _bars("score")),),
    ),
    _claim(
        "C5-full",
        statement="With all training examples the template hardly matters",
        run=templates_fade,
        side="less",
        statistic="size of the template's gain on all examples minus a quarter of its gain with 16 shots",
        controls=(Control("few", "with 16 shots it gains"),),
        gates=_GATES,
        settings=_SETTINGS,
        cost=150.0,
        paper_value="within 0.5 points",
    ),
    _claim(
        "C6",
        statement="The best combination differs between tasks",
        run=best_differs,
        statistic="test score of the combination chosen on dev for each task minus that of one choice for all tasks",
        controls=(Control("mixed up", "more than where each task takes the choice of another task"),),
        gates=_GATES,
        settings=_SETTINGS,
        cost=45.0,
    ),
    _claim(
        "C7",
        statement="RoBERTa-large trains 10,240 numbers with a soft prompt, 323,673 with BitFit, 6,343,680 with adapters",
        run=sizes,
        statistic="largest difference to the published counts over all seven combinations",
        unit="parameters",
        controls=(Control("union", "a combination trains the union of its methods' tensors", "within", 0.0, exact=True),),
        side="within",
        bound=0.0,
        exact=True,
        tier="headline",
        cost=10.0,
        paper_value="0.003, 0.09, 1.75 percent",
    ),
    _claim(
        "C8",
        statement="Of the six orders of prompt, BitFit and adapter none dominates, and later stages add a little",
        run=orders_compare,
        statistic="dev score after the third stage minus after the first, mean over the six orders",
        controls=(Control("spread", "the orders' final scores differ by less than 5 points", "less", 5.0),),
        gates=_GATES,
        settings={**_SETTINGS, "orders": ORDERS},
        tier="headline",
        cost=33.0,
        paper_value="95.4 to 96.3 percent on SST-2",
        figures=(Figure("orders", "Dev score after each stage.", _orders),),
    ),
    _claim(
        "C9",
        statement="Combinations over-fit more than single methods, the soft prompt least",
        run=gaps,
        statistic="training minus test score, mean of the combinations minus mean of the single methods",
        controls=(Control("prompt", "the other methods' gap is larger than the soft prompt's"),),
        gates=_GATES,
        settings=_SETTINGS,
        tier="headline",
        cost=28.0,
        figures=(Figure("gaps", "Gap of each combination.", _bars("gap")),),
    ),
    _claim(
        "C10",
        statement="Deltas save time in the backward pass, adapters cost time in the forward pass",
        run=steps_cost,
        statistic="milliseconds of the backward pass of full fine-tuning minus that of the slowest delta, 256 tokens",
        controls=(Control("forward", "adapters' forward pass takes longer than BitFit's"),),
        unit="ms",
        cost=30.0,
        gates=(Gate("measurable", "the backward pass of full fine-tuning takes at least 1 ms", at_least=1.0),),
        paper_value="116.0 against 60.5 to 79.8 ms",
    ),
    _claim(
        "C11",
        statement="With 16 shots demonstrations help",
        source="LM-BFF, whose few-shot code the experiments are built on",
        run=demonstrations_help,
        statistic="test score of BitFit with demonstrations minus without, mean over tasks",
        controls=(Control("mixed", "more than demonstrations whose labels are mixed up"),),
        gates=_GATES,
        settings={**_SETTINGS, "contexts": CONTEXTS},
        cost=60.0,
    ),
    _claim(
        "C11-filter",
        statement="Demonstrations that are like the query help more than any",
        source="LM-BFF, whose few-shot code the experiments are built on",
        run=filtering_helps,
        statistic="test score of BitFit with filtered minus with unfiltered demonstrations, mean over tasks",
        controls=(Control("random", "more than a filter by random vectors"),),
        gates=_GATES,
        settings={**_SETTINGS, "contexts": CONTEXTS},
        cost=90.0,
    ),
    _claim(
        "C11-words",
        statement="Automatic label words match manual ones",
        source="LM-BFF, whose few-shot code the experiments are built on",
        run=words_match,
        statistic="test score of BitFit with automatic minus with manual label words, mean over tasks",
        controls=(Control("random", "automatic words score higher than random ones"),),
        gates=_GATES,
        settings=_SETTINGS,
        side="within",
        bound=3.0,
        cost=40.0,
    ),
    _claim(
        "C11-templates",
        statement="Automatic templates match manual ones",
        source="LM-BFF, whose few-shot code the experiments are built on",
        run=templates_match,
        statistic="test score of BitFit with automatic minus with manual templates, mean over tasks",
        controls=(Control("bare", "automatic templates score higher than none"),),
        gates=_GATES,
        settings=_SETTINGS,
        side="within",
        bound=3.0,
        cost=60.0,
    ),
)
