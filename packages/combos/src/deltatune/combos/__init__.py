"""Combinations and orders of prompt, bias and adapter tuning.

The names below are the public ones, imported on first use so that `deltatune-combos --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatune.combos.combination import SIMULTANEOUS, Combination, Sizes
    from deltatune.combos.contexts import ContextFormat, Demonstrations
    from deltatune.combos.demonstrations import average, draw, in_context, similar, with_demonstrations
    from deltatune.combos.gathering import Chosen, Trial, choose
    from deltatune.combos.plans import Plan, carry_out
    from deltatune.combos.search_labels import best_pairings, likely_words
    from deltatune.combos.search_templates import fill, template_text
    from deltatune.combos.suggestion import Suggestion, Way
    from deltatune.combos.trials import Trials
    from deltatune.combos.untouched import Untouched
    from deltatune.combos.vote import mean_logits, predictions

_HOMES = {
    "combination": ("SIMULTANEOUS", "Combination", "Sizes"),
    "contexts": ("ContextFormat", "Demonstrations"),
    "demonstrations": ("average", "draw", "in_context", "similar", "with_demonstrations"),
    "gathering": ("Chosen", "Trial", "choose"),
    "plans": ("Plan", "carry_out"),
    "search_labels": ("best_pairings", "likely_words"),
    "search_templates": ("fill", "template_text"),
    "suggestion": ("Suggestion", "Way"),
    "trials": ("Trials",),
    "untouched": ("Untouched",),
    "vote": ("mean_logits", "predictions"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SIMULTANEOUS",
    "Chosen",
    "Combination",
    "ContextFormat",
    "Demonstrations",
    "Plan",
    "Sizes",
    "Suggestion",
    "Trial",
    "Trials",
    "Untouched",
    "Way",
    "average",
    "best_pairings",
    "carry_out",
    "choose",
    "draw",
    "fill",
    "in_context",
    "likely_words",
    "mean_logits",
    "predictions",
    "similar",
    "template_text",
    "with_demonstrations",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
