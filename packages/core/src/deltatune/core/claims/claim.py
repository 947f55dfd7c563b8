"""What a claim declares before it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from deltatune.core.claims.context import Context
from deltatune.core.claims.interval import Resampled
from deltatune.core.errors import DeltatuneError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Side = Literal["greater", "less", "within"]
Tier = Literal["headline", "all"]
Measured: TypeAlias = float | Mapping[str, float]  # one number, or one for each cluster, such as a task


class CannotRunError(DeltatuneError):
    """A claim cannot be run here, for a known reason: the verdict is "not run", and nothing is broken."""


@dataclass(frozen=True)
class Control:
    """What must hold beside the effect, so that the effect means what the claim says.

    Args:
        name: key of its measurements in `Effects.controls`.
        statement: in words.
        side: where its interval must lie: above `bound`, below it, or within -bound and bound.
        bound: in the unit of the claim.
        exact: it is arithmetic and has no error, such as a difference that must be 0.
    """

    name: str
    statement: str
    side: Side = "greater"
    bound: float = 0.0
    exact: bool = False


@dataclass(frozen=True)
class Gate:
    """What must hold for the experiment to mean anything, judged by the mean over seeds.

    Args:
        name: key of its measurements in `Effects.gates`.
        statement: in words, with the unit.
        at_least: lowest mean that passes.
        at_most: highest mean that passes.
    """

    name: str
    statement: str
    at_least: float = -math.inf
    at_most: float = math.inf


@dataclass(frozen=True)
class Effects:
    """What one seed measured.

    Args:
        effect: the claim's statistic, alone or for each cluster.
        controls: the same for each declared control.
        gates: one number for each declared gate.
        records: whatever the figures and a reader need; plain values.
    """

    effect: Measured
    controls: Mapping[str, Measured]
    gates: Mapping[str, float] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Figure:
    """A figure that the paper shows, drawn from records.

    Args:
        name: file name without ending.
        caption: one sentence, which also stands for the figure where it cannot be seen.
        draw: onto an empty matplotlib figure, from the records of all seeds (each with its `seed`).
        size: width and height, inches.
    """

    name: str
    caption: str
    draw: Callable[[Canvas, list[dict[str, Any]]], None]
    size: tuple[float, float] = (6.0, 3.4)


@dataclass(frozen=True)
class Claim:
    """A finding of a paper as an experiment, declared before it is run.

    Args:
        id: as in the paper's specification, such as C3.
        paper: name of the entry point, or `core`.
        statement: what is claimed.
        source: where in the paper.
        statistic: what is computed from one seed, in words.
        run: the experiment with one seed, which decides the initialization of delta and head, data order, dropout and few-shot
            sample together.
        controls: never empty.
        gates: never empty, except for an exact claim.
        settings: everything else that decides the outcome, as plain values.
        side: where the effect is claimed to be: above `bound`, below it, or within -bound and bound.
        bound: the specification's number, in `unit`.
        unit: of the effect.
        resampled: what the interval is taken over (see `interval`).
        tier: "headline" is run by `reproduce`, "all" by `reproduce --all`.
        paper_value: the published number with its unit, as text; None if none is known.
        seeds: how many are run unless the user asks for another number.
        cost: about how many seconds one seed takes on one of two cores, shared work included; for the estimate of the remaining
            time, and to start long claims first.
        exact: the effect is arithmetic and has no error.
        figures: drawn from the records.
        draft: written, but its rates and lengths are not chosen yet: only `--only` runs it.
    """

    id: str
    paper: str
    statement: str
    source: str
    statistic: str
    run: Callable[[Context, int], Effects]
    controls: tuple[Control, ...]
    gates: tuple[Gate, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    side: Side = "greater"
    bound: float = 0.0
    unit: str = "points"
    resampled: Resampled = "seed"
    tier: Tier = "all"
    paper_value: str | None = None
    seeds: int = 5
    cost: float = 1.0
    exact: bool = False
    figures: tuple[Figure, ...] = ()
    draft: bool = False

    def __post_init__(self) -> None:
        if not self.controls:
            raise DeltatuneError(f"claim {self.name} has no control; without one its effect could have another cause")
        if not self.gates and not self.exact:
            raise DeltatuneError(f"claim {self.name} has no gate; say what must hold for its experiment to mean anything")
        if self.tier == "headline" and self.seeds < 5 and not self.exact:
            raise DeltatuneError(f"claim {self.name} is a headline and needs at least 5 seeds, got {self.seeds}")
        for side, bound in [(self.side, self.bound), *((control.side, control.bound) for control in self.controls)]:
            if side == "within" and bound < 0:
                raise DeltatuneError(f"claim {self.name}: within needs a bound of at least 0, got {bound}")

    @property
    def name(self) -> str:
        """Paper and id, unique among all installed papers."""
        return f"{self.paper}/{self.id}"

    def check(self, effects: Effects) -> None:
        """Refuse what was not declared, or not measured.

        Raises:
            DeltatuneError: a control or gate is missing, is new, or a value is not finite.
        """
        for kind, declared, measured in (
            ("control", {control.name for control in self.controls}, effects.controls),
            ("gate", {gate.name for gate in self.gates}, effects.gates),
        ):
            if declared != set(measured):
                wrong = sorted(declared ^ set(measured))[0]
                raise DeltatuneError(
                    f"claim {self.name}: {kind} {wrong} is {'not measured' if wrong in declared else 'not declared'}"
                )
        for value in (effects.effect, *effects.controls.values(), *effects.gates.values()):
            numbers = list(value.values()) if isinstance(value, Mapping) else [value]
            if not numbers or not all(math.isfinite(number) for number in numbers):
                raise DeltatuneError(f"claim {self.name}: measured {numbers or 'nothing'}, which is not a finite number")
