"""The experiment on upgrading outdated weights without training: C13."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deltatune.core.claims import Context, Effects
from deltatune.recyclable.claims import bench
from deltatune.recyclable.claims.bench import FAR, OLD, Arm

if TYPE_CHECKING:
    from deltatune.core.data import Task
    from deltatune.core.tuning import Result

# Relations that mean "a" of the six; the others mean "b". The last map is the one that the projection has not seen.
RELATIONS = "world/relation-0"
MAPS = ((0, 1, 2), (0, 1, 3), (0, 2, 4), (0, 3, 5), (0, 4, 5), (0, 2, 5))
MAP_UPDATES, RANK = 60, 5


def projected(context: Context, seed: int) -> Effects:
    """C13: a projection learnt on five label maps' adapters, applied to the sixth on the last stage."""
    bench.need_models()
    found: dict[str, float] = context.store.get(
        {"projected": seed, "maps": MAPS, "updates": MAP_UPDATES, "rank": RANK, **bench.SETTINGS}, lambda: _projected(seed)
    )
    direct = found["direct"]
    controls = {
        "pairs": found["projected"] - found["shuffled"],
        "mean": found["projected"] - found["mean"],
        "head": direct - found["head"],
    }
    records = [{"arm": name, "score": value} for name, value in found.items()]
    return Effects(found["projected"] - direct, controls, {"solved": found["old"] - 50, "room": direct}, records)


def _projected(seed: int) -> dict[str, float]:
    from deltatune.core.data import load_task
    from deltatune.core.weights import combine
    from deltatune.recyclable.projection import learn, project

    whole = load_task(RELATIONS, None, max_test=bench.TEST)
    tasks = [_mapped(whole, names) for names in MAPS]
    old = [_adapter(OLD, task, seed) for task in tasks]
    new = [_adapter(FAR, task, seed).weights for task in tasks[:-1]]
    weights, last = [result.weights for result in old], old[-1].weights
    target = _adapter(FAR, tasks[-1], seed, updates=1)

    def on_test(values: Mapping[str, Any]) -> float:
        from deltatune.core.evaluation import evaluate

        target.tuned.load(values)
        return 100 * evaluate(target.tuned, target.form, tasks[-1].test).value

    right = project(learn(weights[:-1], new, RANK), last)
    wrong = project(learn(weights[:-1], [*new[1:], new[0]], RANK), last)
    head = set(target.tuned.head_names)
    alone = {name: tensor if name in head else 0 * tensor for name, tensor in last.items()}
    arms = {"direct": last, "projected": right, "shuffled": wrong, "head": alone}
    arms["mean"] = combine(new, [1 / len(new)] * len(new))
    return {"old": 100 * (old[-1].test.value if old[-1].test else 0.0)} | {name: on_test(arm) for name, arm in arms.items()}


def _mapped(task: Task, members: Sequence[int]) -> Task:
    """The task with two labels: whether the answer is one of `members`."""
    from deltatune.core.data import build_task

    inside = {task.labels[number] for number in members}
    words = ("no", "yes")
    config = replace(task.config, name=f"{task.name}/{'-'.join(map(str, members))}", labels=words, label_words={})

    def asked(part: Sequence[Any]) -> list[Any]:
        return [replace(example, label=words[example.label in inside]) for example in part]

    return build_task(config, asked(task.train), asked(task.dev[:20]), asked(task.test))


def _adapter(base: str, task: Task, seed: int, updates: int = MAP_UPDATES) -> Result:
    """An adapter for `task`; all tasks have the same initial values and order."""
    import torch

    from deltatune.core.delta import attach
    from deltatune.core.formats import build_format
    from deltatune.core.loading import load_backbone
    from deltatune.core.train import Hooks
    from deltatune.core.tuning import tune_prepared

    config = Arm("Houlsby", base, RELATIONS, seed, seed, updates=updates).config()
    backbone = load_backbone(config.backbone, num_labels=2)
    form = build_format(backbone, task, config.task.max_length, config.deltas)
    tuned = attach(backbone, *config.deltas, generator=torch.Generator().manual_seed(seed))
    return tune_prepared(config, tuned, form, task, Hooks(progress=False))
