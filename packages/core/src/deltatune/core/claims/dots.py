"""One effect as a small drawing: the seeds as dots, the interval, zero and the bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from deltatune.core.claims.table import measured, number

WIDTH, HEIGHT, MARGIN = 340, 74, 14
_DOTS, _BAR, _AXIS = 22, 40, 54  # heights in the drawing


def drawing(claim: Mapping[str, Any]) -> str:
    """SVG of a claim's seeds and interval, its colours left to the page; empty if nothing was measured."""
    seeds = [(unit["seed"], mean(unit["effect"])) for unit in claim["per_seed"]]
    if not seeds or claim["effect"] is None:
        return ""
    ends = [value for value in (claim["ci_low"], claim["ci_high"]) if value is not None]
    bounds = [claim["bound"]] + ([-claim["bound"]] if claim["side"] == "within" else [])
    values = [0.0, claim["effect"], *bounds, *ends, *(value for _, value in seeds)]
    low, high = min(values), max(values)
    room = (high - low) or 1.0

    def x(value: float) -> str:
        return f"{MARGIN + (value - low) / room * (WIDTH - 2 * MARGIN):.1f}"

    parts = [f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{_AXIS}" y2="{_AXIS}"/>']
    parts += [_tick(x(value), value) for value in _ticks(low, high)]
    parts.append(f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="6" y2="{_AXIS}"/>')
    parts += [f'<line class="bound" x1="{x(bound)}" x2="{x(bound)}" y1="6" y2="{_AXIS}"/>' for bound in bounds if bound]
    if ends:
        parts.append(f'<line class="interval" x1="{x(ends[0])}" x2="{x(ends[1])}" y1="{_BAR}" y2="{_BAR}"/>')
    parts.append(f'<circle class="mean" cx="{x(claim["effect"])}" cy="{_BAR}" r="5"/>')
    parts += [
        f'<circle class="seed" cx="{x(value)}" cy="{_DOTS}" r="4"><title>seed {seed}: {number(value)}</title></circle>'
        for seed, value in seeds
    ]
    told = f"{measured(claim)}; seeds: {', '.join(number(value) for _, value in seeds)}; bound {number(claim['bound'])}"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg class="dots" role="img" aria-label="{escape(told)}" {size}>{"".join(parts)}</svg>'


def mean(effect: Any) -> float:
    """The number of one seed: of several clusters, their mean."""
    return float(effect) if not isinstance(effect, Mapping) else sum(effect.values()) / len(effect)


def _tick(x: str, value: float) -> str:
    mark = f'<line class="axis" x1="{x}" x2="{x}" y1="{_AXIS}" y2="{_AXIS + 4}"/>'
    return f'{mark}<text x="{x}" y="{_AXIS + 16}" text-anchor="middle">{number(value)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """At most six round values between `low` and `high`."""
    room = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(room / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if room / (power * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
