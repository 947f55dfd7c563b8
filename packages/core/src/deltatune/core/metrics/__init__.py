"""How predictions are scored, and which published task is scored how.

`definitions.py` holds the formulas, `score` applies one, `METRICS` offers each as a subclass of `evaluate.Metric` (`classes.py`),
and `tasks.yaml` says which metric each text-to-text task has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deltatune.core.metrics.definitions import DEFINITIONS, Definition, normalize_answer, rouge_l
from deltatune.core.metrics.scoring import Score, definition_name, higher_is_better, score
from deltatune.core.metrics.tasks import metric_of_task, scored_tasks

if TYPE_CHECKING:
    from deltatune.core.metrics.classes import METRICS

__all__ = [
    "DEFINITIONS",
    "METRICS",
    "Definition",
    "Score",
    "definition_name",
    "higher_is_better",
    "metric_of_task",
    "normalize_answer",
    "rouge_l",
    "score",
    "scored_tasks",
]


def __getattr__(name: str) -> Any:
    # `evaluate` imports the pipelines of transformers, which takes ten seconds; `score` needs neither.
    if name == "METRICS":
        from deltatune.core.metrics.classes import METRICS

        return METRICS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
