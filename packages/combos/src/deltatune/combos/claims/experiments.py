"""The experiments behind the claims: what one seed measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from deltatune.combos.claims.measured import (
    DATA,
    MIXED,
    NOISY,
    SINGLES,
    TASKS,
    VARIED,
    chance,
    counted,
    gap,
    need_models,
    orders,
    scores,
    times,
)
from deltatune.core.claims.claim import Effects
from deltatune.core.claims.context import Context

TEMPLATES = ("manual", "none")


def _mean(context: Context, seed: int, methods: str, template: str = "manual", **settings: Any) -> float:
    return fmean(scores(context, seed, methods, template, **settings).values())


def _best(values: Mapping[str, float]) -> str:
    """The name of the greatest value, the first of equal ones."""
    return max(values, key=lambda name: values[name])


def _gates(best: float, tasks: Sequence[str] = TASKS["few"]) -> dict[str, float]:
    return {"above_chance": best - fmean(map(chance, tasks)), "no_ceiling": best}


def singles(context: Context, seed: int, data: str = "few") -> Effects:
    """C1: adapter and BitFit against the soft prompt, with both templates."""
    need_models()
    found = {(name, t): _mean(context, seed, name, t, data=data) for name in SINGLES for t in TEMPLATES}
    controls = {f"{name}, {t}": found[name, t] - found["prompt", t] for name in ("adapter", "bias") for t in TEMPLATES}
    last = _mean(context, seed, "prompt", place="last", data=data)
    controls["prompt last"] = fmean((found["adapter", "manual"], found["bias", "manual"])) - last
    records = [{"methods": name, "template": t, "score": value} for (name, t), value in found.items()]
    effect = fmean(value for name, value in controls.items() if name != "prompt last")
    return Effects(effect, controls, _gates(max(found.values()), TASKS[data]), records)


def adapter_is_enough(context: Context, seed: int) -> Effects:
    """C2: on all training examples, the best combination with adapters against adapters alone."""
    need_models()
    alone = _mean(context, seed, "adapter", data="full")
    found = {name: _mean(context, seed, name, data="full") for name in MIXED if "adapter" in name}
    controls = {"untuned": alone - _mean(context, seed, "none", data="full")}
    records = [{"methods": name, "score": value} for name, value in {**found, "adapter": alone}.items()]
    return Effects(fmean(found.values()) - alone, controls, _gates(max(alone, *found.values()), TASKS["full"]), records)


def prompt_costs(context: Context, seed: int) -> Effects:
    """C3: on all training examples, what a soft prompt adds to adapters, and to adapters with BitFit."""
    need_models()
    pairs = {"adapter": "prompt+adapter", "bias+adapter": "prompt+bias+adapter"}
    without = {name: _mean(context, seed, name, data="full") for name in pairs}
    adds = {name: _mean(context, seed, more, data="full") - without[name] for name, more in pairs.items()}
    last = {name: _mean(context, seed, more, data="full", place="last") - without[name] for name, more in pairs.items()}
    records = [{"methods": name, "first": adds[name], "last": last[name]} for name in pairs]
    return Effects(
        fmean(adds.values()), {"prompt last": fmean(last.values())}, _gates(max(without.values()), TASKS["full"]), records
    )


def combining_helps(context: Context, seed: int) -> Effects:
    """C4: the best combination against the best single method, each chosen on dev, one choice for all tasks."""
    need_models()
    dev = {name: _mean(context, seed, name, split="dev") for name in (*SINGLES, *MIXED)}
    test = {name: _mean(context, seed, name) for name in (*SINGLES, *MIXED)}
    by_dev = {kind: _best({name: dev[name] for name in names}) for kind, names in (("single", SINGLES), ("mixed", MIXED))}
    by_test = max(test[name] for name in MIXED) - max(test[name] for name in SINGLES)
    effect = test[by_dev["mixed"]] - test[by_dev["single"]]
    records = [{"methods": name, "dev": dev[name], "test": test[name]} for name in dev]
    records.append({"methods": "chosen", "by_dev": effect, "by_test": by_test})
    controls = {"untuned": test[by_dev["mixed"]] - _mean(context, seed, "none")}
    return Effects(effect, controls, _gates(max(test.values())), records)


def templates_help(context: Context, seed: int) -> Effects:
    """C5: hand-written against bare template, 16 shots and untuned."""
    need_models()
    found = {(name, t): _mean(context, seed, name, t) for name in ("none", *SINGLES) for t in TEMPLATES}
    gains = {name: found[name, "manual"] - found[name, "none"] for name in ("none", *SINGLES)}
    records = [{"methods": name, "template": t, "score": value} for (name, t), value in found.items()]
    gates = _gates(max(found.values())) | {"zero_shot": found["none", "manual"] - fmean(map(chance, TASKS["few"]))}
    return Effects(fmean(gains[name] for name in SINGLES), {"zero-shot": gains["none"]}, gates, records)


def templates_fade(context: Context, seed: int) -> Effects:
    """C5-full: what the template adds on all training examples, against a quarter of what it adds with 16 shots."""
    need_models()

    def mean(name: str, template: str, data: str) -> float:
        return _mean(context, seed, name, template, data=data, tasks=NOISY)

    gain = {data: fmean(mean(name, "manual", data) - mean(name, "none", data) for name in SINGLES) for data in DATA}
    best = max(mean(name, "manual", "full") for name in SINGLES)
    return Effects(abs(gain["full"]) - gain["few"] / 4, {"few": gain["few"]}, _gates(best, NOISY), [gain])


def best_differs(context: Context, seed: int) -> Effects:
    """C6: the combination chosen on dev for each task against one choice for all; and with the tasks' dev scores mixed up."""
    need_models()
    names = (*SINGLES, *MIXED)
    dev, test = ({name: scores(context, seed, name, split=split, tasks=VARIED) for name in names} for split in ("dev", "test"))
    common = _best({name: fmean(dev[name].values()) for name in names})
    own = {task: _best({name: dev[name][task] for name in names}) for task in VARIED}
    shifted = dict(zip(VARIED, (*VARIED[1:], VARIED[0]), strict=True))
    gain = fmean(test[own[task]][task] - test[common][task] for task in VARIED)
    wrong = fmean(test[own[shifted[task]]][task] - test[common][task] for task in VARIED)
    records = [{"task": t, "methods": own[t], "dev": dev[own[t]][t], "test": test[own[t]][t]} for t in VARIED]
    best = max(fmean(test[name].values()) for name in names)
    return Effects(gain, {"mixed up": gain - wrong}, _gates(best, VARIED), [*records, {"task": "all", "methods": common}])


def sizes(context: Context, seed: int) -> Effects:
    """C7: numbers of trained parameters of RoBERTa-large, counted on a model without weights."""
    found = context.store.get({"what": "sizes", "model": "roberta-large"}, counted)
    worst = max(abs(row["trained"] - row["published"]) for row in found)
    union = max(abs(row["trained"] - row["sum"]) for row in found)
    return Effects(float(worst), {"union": float(union)}, {}, found)


def orders_compare(context: Context, seed: int) -> Effects:
    """C8: dev score after the third stage minus after the first, mean over all six orders."""
    need_models()
    found = orders(context, seed)
    ends = [row["third"] for row in found]
    gain = fmean(row["third"] - row["first"] for row in found)
    return Effects(gain, {"spread": max(ends) - min(ends)}, _gates(max(ends), TASKS["few"][:1]), found)


def gaps(context: Context, seed: int) -> Effects:
    """C9: training minus test score of combinations against single methods; and of the soft prompt against all others."""
    need_models()
    found = {name: fmean(gap(context, seed, name, task) for task in TASKS["few"]) for name in (*SINGLES, *MIXED)}
    effect = fmean(found[name] for name in MIXED) - fmean(found[name] for name in SINGLES)
    others = fmean(value for name, value in found.items() if name != "prompt") - found["prompt"]
    best = max(_mean(context, seed, name) for name in found)
    return Effects(effect, {"prompt": others}, _gates(best), [{"methods": name, "gap": value} for name, value in found.items()])


def steps_cost(context: Context, seed: int) -> Effects:
    """C10: milliseconds of a backward pass, full fine-tuning minus the slowest delta; forward, adapter minus BitFit."""
    found = context.store.get({"what": "times", "seed": seed}, partial(times, seed))
    by = {row["methods"]: row for row in found}
    saved = by["full"]["backward"] - max(by[name]["backward"] for name in SINGLES)
    forward = by["adapter"]["forward"] - by["bias"]["forward"]
    return Effects(saved, {"forward": forward}, {"measurable": by["full"]["backward"]}, found)
