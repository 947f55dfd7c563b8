"""What deltas must have in common to be compared, added or started from, and the sum of many delta folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.core import checkpoint
from deltatune.core.checkpoint import PREFIX, TENSORS, Saved
from deltatune.core.delta import DeltaConfig, Head
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import weighted_sum

# Settings that end with the first values, act in training only, or are seen in the shapes of the tensors.
_WITHOUT_MEANING = frozenset({"init", "init_std", "dropout", "width", "reduction"})
_KEPT = ("task", "labels", "metric", "form", "settings", "sites")


def other_meaning(left: Sequence[DeltaConfig], right: Sequence[DeltaConfig]) -> str | None:
    """What makes equal tensors act differently under two lists of settings, such as `LoRA.alpha 16 and 32`; None if nothing does.

    The task head is left out: it has no settings that act.
    """
    ends = [[config.describe() for config in side if not isinstance(config, Head)] for side in (left, right)]
    kinds = [" + ".join(item["kind"] for item in end) or "a head alone" for end in ends]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} and {kinds[1]}"
    for one, other in zip(*ends, strict=True):
        for name in one:
            if name not in _WITHOUT_MEANING and one[name] != other[name]:
                return f"{one['kind']}.{name} {_short(one[name])} and {_short(other[name])}"
    return None


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_one_space(left: Saved, right: Saved, doing: str, other_base: bool = False) -> None:
    """Require that the tensors of two deltas mean the same.

    Args:
        left: one delta.
        right: the other.
        doing: what is about to be done, for the message.
        other_base: allow deltas that were tuned on bases with different digests.

    Raises:
        DeltatuneError: other settings, or another base without `other_base`.
    """
    names = f"{left.path or 'the first delta'} and {right.path or 'the other'}"
    if (found := other_meaning(left.configs, right.configs)) is not None:
        raise DeltatuneError(f"{doing}: {names} have other settings ({found}); take deltas of one kind and equal settings")
    if not other_base and left.base["digest"] != right.base["digest"]:
        bases = " and ".join(f"{end.base['name']} (digest {str(end.base['digest'])[:12]})" for end in (left, right))
        raise DeltatuneError(
            f"{doing}: {names} were tuned on different bases, {bases}; take deltas of one base, or give --other_base"
        )


def combine_files(paths: Sequence[Path], coefficients: Sequence[float], other_base: bool = False) -> Saved:
    """The weighted sum of delta folders of one kind, one tensor of each file in memory at a time.

    Args:
        paths: delta folders, runs or RUN@STEP.
        coefficients: one for each, any real numbers.
        other_base: allow deltas of different bases; the sum names the base of the first, and each base stands in its record.

    Raises:
        DeltatuneError: a damaged folder; other settings, names, shapes, bases or labels of a head; unequal lengths.
    """
    if not paths or len(paths) != len(coefficients):
        raise DeltatuneError(f"combine: {len(paths)} deltas and {len(coefficients)} coefficients; give one coefficient for each")
    folders = [checkpoint.locate(path) for path in paths]
    abouts = [checkpoint.describe(folder) for folder in folders]
    ends = [_without_tensors(folder, about) for folder, about in zip(folders, abouts, strict=True)]
    for end, about in zip(ends, abouts, strict=True):
        require_one_space(ends[0], end, "combine", other_base)
        if about["names"] != abouts[0]["names"]:
            raise DeltatuneError(f"combine: {end.path} has other names than {folders[0]}; take deltas of one kind and size")
        labels = {tuple(known) for known in (ends[0].about.get("labels"), end.about.get("labels")) if known is not None}
        if end.head and len(labels) > 1:
            raise DeltatuneError(f"combine: the heads of {folders[0]} and {end.path} know other labels; take deltas of one task")
    files = [checkpoint.open_tensors(folder / TENSORS) for folder in folders]
    weights = {}
    for name in abouts[0]["names"]:
        shapes = {tuple(file.get_slice(PREFIX + name).get_shape()) for file in files}
        if len(shapes) > 1:
            raise DeltatuneError(f"combine: {name} has shapes {', '.join(map(str, sorted(shapes)))}; take deltas of one size")
        weights[name] = weighted_sum((file.get_tensor(PREFIX + name) for file in files), coefficients)
    parts = [
        {"path": str(path), "coefficient": coefficient, "digest": end.digest, "tuned_on": end.base}
        for path, coefficient, end in zip(paths, coefficients, ends, strict=True)
    ]
    return Saved(weights, ends[0].configs, ends[0].base, ends[0].head, {**_common(ends), "combined": parts})


def _without_tensors(folder: Path, about: Mapping[str, Any]) -> Saved:
    configs = checkpoint.configs_of(folder, about)
    return Saved({}, configs, about["base"], tuple(about["head"]), about["about"], folder, about["tensors_sha256"])


def _common(ends: Sequence[Saved]) -> dict[str, Any]:
    """What all of them say about their task."""
    first = ends[0].about
    return {key: first[key] for key in _KEPT if key in first and all(end.about.get(key) == first[key] for end in ends)}
