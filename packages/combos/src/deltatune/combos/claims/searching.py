"""What demonstrations, their filtering, and automatic label words and templates are worth: C11 and its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deltatune.combos.claims.measured import BASE, DATA, PAIRED, TASKS, TEST, chance, need_models, score
from deltatune.core.claims.claim import Effects
from deltatune.core.claims.context import Context

if TYPE_CHECKING:
    from deltatune.combos.untouched import Untouched

FEW = TASKS["few"]
METHOD, FILLER = "bias", "world/t5"
LIKELY, PAIRS, BEAM = 40, 100, 20


def _gates(*values: float, tasks: Sequence[str] = FEW) -> dict[str, float]:
    return {"above_chance": max(values) - fmean(map(chance, tasks)), "no_ceiling": max(values)}


def _mean(context: Context, seed: int, **settings: Any) -> float:
    return fmean(score(context, seed, METHOD, task, **settings) for task in FEW)


def demonstrations_help(context: Context, seed: int) -> Effects:
    """C11: tuned and scored with solved examples beside the query, against without; and with their labels mixed up."""
    need_models()
    found = {"without": _mean(context, seed)}
    found |= {labels: _mean(context, seed, demos={"labels": labels}) for labels in ("own", "mixed")}
    records = [{"demonstrations": name, "score": value} for name, value in found.items()]
    return Effects(found["own"] - found["without"], {"mixed": found["own"] - found["mixed"]}, _gates(*found.values()), records)


def filtering_helps(context: Context, seed: int) -> Effects:
    """C11-filter: demonstrations like the query against any; and against those that random vectors call alike."""
    need_models()

    def mean(kind: str | None) -> float:
        chosen = {task: {} if kind is None else {"vectors": vectors_of(context, task, kind)} for task in FEW}
        return fmean(score(context, seed, METHOD, task, demos=chosen[task]) for task in FEW)

    found = {"any": mean(None), "alike": mean("encoder"), "random": mean("random")}
    records = [{"demonstrations": name, "score": value} for name, value in found.items()]
    return Effects(found["alike"] - found["any"], {"random": found["alike"] - found["random"]}, _gates(*found.values()), records)


def words_match(context: Context, seed: int) -> Effects:
    """C11-words: automatic label words against the task's own; and against words drawn from all."""
    need_models()
    found: dict[str, dict[str, float]] = {"own": {task: score(context, seed, METHOD, task) for task in PAIRED}}
    records = []
    for kind in ("automatic", "random"):
        words = {task: context.store.get(_key("words", kind, task, seed), partial(_words, kind, task, seed)) for task in PAIRED}
        found[kind] = {task: score(context, seed, METHOD, task, words=words[task]) for task in PAIRED}
        records += [{"kind_of_words": kind, "task": task, "words": words[task], "score": found[kind][task]} for task in PAIRED]
    means = {kind: fmean(values.values()) for kind, values in found.items()}
    controls = {"random": means["automatic"] - means["random"]}
    return Effects(means["automatic"] - means["own"], controls, _gates(*means.values(), tasks=PAIRED), records)


def templates_match(context: Context, seed: int) -> Effects:
    """C11-templates: templates that a T5 fills in against the task's own; and against none."""
    need_models()
    texts = {task: context.store.get(_key("template", FILLER, task, seed), partial(_template, task, seed)) for task in FEW}
    own, bare = _mean(context, seed), _mean(context, seed, template="none")
    by_task = {task: score(context, seed, METHOD, task, template=texts[task]) for task in FEW}
    found = fmean(by_task.values())
    records = [{"task": task, "template": texts[task], "score": by_task[task]} for task in FEW]
    return Effects(found - own, {"bare": found - bare}, _gates(found, own, bare), records)


def _key(what: str, kind: str, task: str, seed: int) -> dict[str, Any]:
    return {"what": what, "kind": kind, "task": task, "seed": seed, "base": BASE, "sizes": [LIKELY, PAIRS, BEAM]}


def _asked(task: str, seed: int) -> Untouched:
    from deltatune.combos.untouched import Untouched
    from deltatune.core.backbone import BackboneConfig
    from deltatune.core.tune_config import TaskChoice, TuneConfig

    choice = TaskChoice(task, shots=DATA["few"]["shots"], sample_seed=seed, max_test=TEST)
    return Untouched.of(TuneConfig(BackboneConfig(BASE, form="prompt"), choice, ()))


def _words(kind: str, task: str, seed: int) -> dict[str, str]:
    """Words that a search finds on the sample, the untouched model chooses on dev; or drawn from all possible ones."""
    import torch

    asked = _asked(task, seed)
    template = str(asked.task.config.template)
    if kind == "random":
        usable = torch.nonzero(asked.begins_word).flatten()
        order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))[: len(asked.keys)]
        return {key: asked.word(int(usable[place])) for key, place in zip(asked.keys, order.tolist(), strict=True)}
    pairings = asked.pairings(template, LIKELY, PAIRS)
    found = [dict(zip(asked.keys, map(asked.word, pairing.words), strict=True)) for pairing in pairings]
    return max(found, key=lambda words: asked.judge(template, words))


def _template(task: str, seed: int) -> str:
    """The template of a search that the untouched model does best with on dev."""
    from deltatune.core.backbone import BackboneConfig
    from deltatune.core.loading import load_backbone

    asked = _asked(task, seed)
    words: Mapping[str, str] = asked.task.config.label_words
    found = asked.templates(load_backbone(BackboneConfig(FILLER, form="text")), words, BEAM)
    return max(found, key=lambda text: asked.judge(text, words))


def vectors_of(context: Context, task: str, kind: str) -> Path:
    """Folder of sentence vectors of all examples: of the base model, or random ones."""
    return context.store.folder({"what": "vectors", "task": task, "kind": kind, "encoder": BASE}, partial(_embed, task, kind))


def _embed(task: str, kind: str, target: Path) -> None:
    import numpy as np

    from deltatune.combos.sentences import encoder, joined, vectors, write_vectors
    from deltatune.core.data import load_task

    loaded = load_task(task, None, max_test=TEST)
    texts = [joined(example) for part in (loaded.train, loaded.dev, loaded.test) for example in part]
    if kind == "random":
        found = np.random.default_rng(0).normal(size=(len(texts), 16)).astype(np.float32)
    else:
        found = vectors(texts, *encoder(BASE))
    write_vectors(target / "all.safetensors", texts, found, {"encoder": kind, "data": loaded.digest})
