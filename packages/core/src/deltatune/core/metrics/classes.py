"""The metrics as subclasses of `evaluate.Metric`, built directly: nothing is loaded by name, from a network or a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from deltatune.core.metrics.definitions import DEFINITIONS, Inputs
from deltatune.core.metrics.scoring import score

_DESCRIPTION: dict[Inputs, str] = {
    "classes": "predictions and references: class numbers",
    "values": "predictions and references: real values",
    "texts": "predictions: texts; references: for each a list of accepted texts",
}
_TYPE: dict[Inputs, str] = {"classes": "int64", "values": "float64", "texts": "string"}


class ListMetric(evaluate.Metric):  # type: ignore[misc]  # `evaluate` is untyped
    """A metric by its entry of `DEFINITIONS`; `compute` returns its value under its name, and `per_example`."""

    key: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        # The base class makes this folder in the user's home, although a metric kept in memory writes nothing there.
        return ""

    def _info(self) -> evaluate.MetricInfo:
        inputs = DEFINITIONS[self.key].inputs
        kind: Any = datasets.Value(_TYPE[inputs])
        references = datasets.Sequence(kind) if inputs == "texts" else kind
        return evaluate.MetricInfo(
            description=self.__doc__ or self.key,
            citation="",
            inputs_description=_DESCRIPTION[inputs],
            features=datasets.Features({"predictions": kind, "references": references}),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
        found = score(self.key, predictions, references)
        return {self.key: found.value, "per_example": found.per_example}


class Accuracy(ListMetric):
    """Share of right classes."""

    key = "accuracy"


class F1(ListMetric):
    """F1 of class 1."""

    key = "f1"


class MacroF1(ListMetric):
    """Mean F1 of the classes in the references."""

    key = "macro_f1"


class MatthewsCorrelation(ListMetric):
    """Matthews correlation of classes."""

    key = "matthews"


class Pearson(ListMetric):
    """Pearson correlation of values."""

    key = "pearson"


class Spearman(ListMetric):
    """Spearman rank correlation of values."""

    key = "spearman"


class MeanSquaredError(ListMetric):
    """Mean squared error of values; lower is better."""

    key = "mse"


class TextAccuracy(ListMetric):
    """Share of texts equal to an accepted text but for letter case."""

    key = "ACC"


class ExactMatch(ListMetric):
    """Share of texts equal to an accepted text after normalisation."""

    key = "EM"


class QAF1(ListMetric):
    """Mean bag-of-words F1 with the best accepted text."""

    key = "QA-F1"


class RougeL(ListMetric):
    """Mean ROUGE-L with the best accepted text."""

    key = "Rouge-L"


class ClassificationF1(ListMetric):
    """Macro F1 over the answers that occur."""

    key = "Classification-F1"


class TextMatthewsCorrelation(ListMetric):
    """Matthews correlation of being `acceptable`."""

    key = "Matthew-Correlation"


class TextPearson(ListMetric):
    """Pearson correlation of numbers written as texts."""

    key = "Pearson-Correlation"


class TextSpearman(ListMetric):
    """Spearman rank correlation of numbers written as texts."""

    key = "Spearman-Correlation"


METRICS: dict[str, type[ListMetric]] = {
    metric.key: metric
    for metric in (
        *(Accuracy, F1, MacroF1, MatthewsCorrelation, Pearson, Spearman, MeanSquaredError),
        *(TextAccuracy, ExactMatch, QAF1, RougeL, ClassificationF1, TextMatthewsCorrelation, TextPearson, TextSpearman),
    )
}
"""The class of every metric, by its name."""
