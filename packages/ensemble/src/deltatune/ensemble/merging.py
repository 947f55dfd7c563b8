"""Weighted sums of deltas, one tensor of each in memory at a time; of LoRA also as the updates that its factors make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from deltatune.core import checkpoint
from deltatune.core.checkpoint import PREFIX, TENSORS, Saved
from deltatune.core.combining import require_one_space
from deltatune.core.delta import LoRA
from deltatune.core.errors import DeltatuneError
from deltatune.core.weights import weighted_sum

Space = Literal["factors", "product"]
Coefficients = Callable[[str], Sequence[float]]


@dataclass(frozen=True)
class Part:
    """A delta of which one tensor after another is read.

    Args:
        name: of the source.
        saved: what is known of it; tensors may be left out.
        get: the tensor of a name.
        names: of its tensors without the head.
    """

    name: str
    saved: Saved
    get: Callable[[str], Tensor]
    names: tuple[str, ...]


def part_of(name: str, saved: Saved) -> Part:
    """A delta that is in memory."""
    return Part(name, saved, saved.weights.__getitem__, tuple(n for n in saved.weights if n not in saved.head))


def open_part(path: Path) -> Part:
    """A run, RUN@STEP or delta folder, its tensors on disk.

    Raises:
        DeltatuneError: missing or damaged.
    """
    folder = checkpoint.locate(path)
    about = checkpoint.describe(folder)
    saved = Saved(
        {},
        checkpoint.configs_of(folder, about),
        about["base"],
        tuple(about["head"]),
        about["about"],
        folder,
        about["tensors_sha256"],
    )
    checkpoint.open_tensors(folder / TENSORS)  # says now what is wrong with it

    def get(name: str) -> Tensor:
        # Opened for each tensor: what was read of a file stays in memory as long as the file is open.
        with checkpoint.open_tensors(folder / TENSORS) as file:
            tensor: Tensor = file.get_tensor(PREFIX + name)
        return tensor

    return Part(path.name, saved, get, tuple(n for n in about["names"] if n not in about["head"]))


def merge(
    parts: Sequence[Part],
    coefficients: Sequence[float] | Coefficients,
    space: Space = "factors",
    rank: int | None = None,
    other_base: bool = False,
) -> Saved:
    """The weighted sum of deltas without their heads.

    Args:
        parts: of one kind, equal settings and one base.
        coefficients: one for each, any real numbers; or the function from a tensor's name to them.
        space: factors: each stored tensor by itself, as published, so that of LoRA the sum of the A times the sum of the B;
            product: the updates B A of LoRA, factored again by their largest singular values.
        rank: of the new factors; that of the parts by default.
        other_base: allow parts that were tuned on different bases.

    Returns:
        The sum; `about["combined"]` names the parts, `about["space"]` and, for the product, `about["lost"]` the share of the
        update's length that the rank could not hold.

    Raises:
        DeltatuneError: nothing to merge, parts that differ, or a product of other deltas than LoRA.
    """
    per_tensor = coefficients if callable(coefficients) else (lambda name: coefficients)
    if not parts or len(per_tensor(parts[0].names[0])) != len(parts):
        raise DeltatuneError(f"merge: {len(parts)} deltas and another number of weights; give one weight for each")
    first = parts[0]
    for part in parts[1:]:
        require_one_space(first.saved, part.saved, "merge", other_base)
        if set(part.names) != set(first.names):
            raise DeltatuneError(f"merge: {part.name} has other tensors than {first.name}; take deltas of one kind and size")
    about: dict[str, Any] = {"space": space}
    if space == "factors":
        weights = {name: _sum(parts, name, per_tensor) for name in first.names}
        configs = first.saved.configs
    else:
        weights, configs, about["lost"] = _products(parts, per_tensor, rank)
    plain = None if callable(coefficients) else list(coefficients)
    about["combined"] = [
        {
            "source": part.name,
            "coefficient": None if plain is None else plain[i],
            "digest": part.saved.digest,
            "tuned_on": part.saved.base,
        }
        for i, part in enumerate(parts)
    ]
    kept: dict[str, Any] = {key: first.saved.about[key] for key in ("form", "sites") if key in first.saved.about}
    return Saved(weights, configs, first.saved.base, (), {**kept, **about})


def _sum(parts: Sequence[Part], name: str, coefficients: Coefficients) -> Tensor:
    try:
        return weighted_sum((part.get(name) for part in parts), coefficients(name))
    except RuntimeError as error:
        shapes = ", ".join(sorted({str(tuple(part.get(name).shape)) for part in parts}))
        raise DeltatuneError(f"merge: {name} has shapes {shapes}; take deltas of one size") from error


def _products(
    parts: Sequence[Part], coefficients: Coefficients, rank: int | None
) -> tuple[dict[str, Tensor], tuple[Any, ...], float]:
    configs = parts[0].saved.configs
    found = [config for config in configs if isinstance(config, LoRA)]
    if len(found) != 1 or any(not name.endswith((".lora_A.weight", ".lora_B.weight")) for name in parts[0].names):
        raise DeltatuneError("--space product: only LoRA is a product of factors; take --space factors")
    own = found[0].rank
    new = replace(found[0], rank=rank or own, alpha=found[0].alpha * (rank or own) / own)
    weights: dict[str, Tensor] = {}
    total = lost = 0.0
    for name in parts[0].names:
        if name.endswith(".lora_A.weight"):
            other = name.replace(".lora_A.", ".lora_B.")
            shares = coefficients(name)
            a = torch.cat([part.get(name).float() for part in parts])
            b = torch.cat([share * part.get(other).float() for part, share in zip(parts, shares, strict=True)], dim=1)
            weights[name], weights[other], squares = refactor(b, a, new.rank)
            total, lost = total + float(squares.sum()), lost + float(squares[new.rank :].sum())
    ordered = {name: weights[name] for name in parts[0].names}
    kept = tuple(new if isinstance(config, LoRA) else config for config in configs if not _is_head(config))
    return ordered, kept, (lost / total) ** 0.5 if total else 0.0


def _is_head(config: object) -> bool:
    return type(config).__name__ == "Head"


def refactor(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The product b a, (out, R) times (R, in), as factors of a lower rank with the least error.

    Returns:
        A (rank, in), B (out, rank), and the squares of all singular values, largest first. A and B share each singular value.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    kept = s[:rank].sqrt()
    new_b, new_a = (q_b @ u[:, :rank]) * kept, (kept.unsqueeze(1) * v[:rank]) @ q_a.T
    short = rank - len(kept)
    if short > 0:
        new_b = torch.nn.functional.pad(new_b, (0, short))
        new_a = torch.nn.functional.pad(new_a, (0, 0, 0, short))
    return new_a.float(), new_b.float(), s.square()


def by_module(weights: Mapping[str, Mapping[str, float]], group: Callable[[str], str], order: Sequence[str]) -> Coefficients:
    """The coefficients of a tensor by the module that it is in; what is in no module takes the mean over modules.

    Args:
        weights: module -> source -> weight.
        group: tensor name -> module.
        order: of the sources.
    """
    mean = [sum(row.get(source, 0.0) for row in weights.values()) / len(weights) for source in order]

    def coefficients(name: str) -> Sequence[float]:
        row = weights.get(group(name))
        return mean if row is None else [row.get(source, 0.0) for source in order]

    return coefficients
