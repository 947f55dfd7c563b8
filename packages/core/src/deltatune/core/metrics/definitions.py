"""The formulas of the metrics, on plain lists.

The text metrics are those of the text-to-text papers (arXiv 2210.14102, 2022.findings-emnlp.86, ACL 2023 weight ensembling),
which follow the program of the NLP few-shot gym (arXiv 2104.08835). A value that is not defined is nan.
"""

from __future__ import annotations

import math
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from deltatune.core.errors import DeltatuneError

Inputs = Literal["classes", "values", "texts"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Definition:
    """What a metric is.

    Args:
        inputs: class numbers, real values, or texts with a list of accepted texts for each.
        per_example: score of each example; None where there is none.
        corpus: value from all examples together; None where the value is the mean of `per_example`.
        higher_is_better: False for an error.
        as_text: the metric that takes this one's place when the answers are texts.
    """

    inputs: Inputs
    per_example: Callable[[Any, Any], float] | None = None
    corpus: Callable[[Sequence[Any], Sequence[Any]], float] | None = None
    higher_is_better: bool = True
    as_text: str | None = None

    def __post_init__(self) -> None:
        if self.per_example is None and self.corpus is None:
            raise DeltatuneError("a metric needs `per_example` or `corpus`, got neither")


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces (in this order)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def same_text(prediction: str, reference: str) -> float:
    """1 for texts equal but for letter case, else 0; nothing is stripped."""
    return float(prediction.lower() == reference.lower())


def same_normalized(prediction: str, reference: str) -> float:
    """1 for texts equal after `normalize_answer`, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def bag_f1(prediction: str, reference: str) -> float:
    """F1 of the two bags of words after `normalize_answer`; 0 where nothing is shared, also when both are empty."""
    found, wanted = (normalize_answer(text).split() for text in (prediction, reference))
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L of the package `rouge` 1.0.1: summary level, on sets of distinct words, sentences split at full stops.

    With u the union over sentence pairs of the words on a longest common subsequence, p = |u| / distinct words of the prediction
    and r = |u| / distinct words of the reference: 2pr / (p + r + 1e-8). Other packages called ROUGE give other numbers. A
    prediction without any character besides punctuation scores 0.

    Raises:
        DeltatuneError: the reference has no words.
    """
    from rouge import Rouge

    if not prediction.translate(_PUNCTUATION):
        return 0.0
    if not reference.replace(".", ""):
        raise DeltatuneError(f"reference {reference!r} has no words, so its ROUGE-L is not defined; remove the example")
    with _recursion(len(prediction.split()) + len(reference.split())):
        return float(Rouge(metrics=["rouge-l"]).get_scores(prediction, reference)[0]["rouge-l"]["f"])


def best_of(function: Callable[[str, str], float]) -> Callable[[str, Sequence[str]], float]:
    """`function` of a prediction and the reference that suits it best; 0 without references."""

    def best(prediction: str, references: Sequence[str]) -> float:
        return max((function(prediction, reference) for reference in references), default=0.0)

    return best


def binary_f1(predictions: Sequence[int], references: Sequence[int]) -> float:
    """F1 of class 1; nan where class 1 is neither predicted nor true."""
    return _f1(predictions, references, [1])


def macro_f1(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Mean F1 of the classes that occur in the references; a prediction of another class is wrong and nothing more."""
    return _f1(predictions, references, sorted(set(references)))


def matthews(predictions: Sequence[int], references: Sequence[int]) -> float:
    """Matthews correlation; 0 by convention where predictions or references are all of one class."""
    if len(set(references)) < 2 or len(set(predictions)) < 2:
        return 0.0
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(list(references), list(predictions)))


def pearson(predictions: Sequence[float], references: Sequence[float]) -> float:
    """Pearson correlation; nan for fewer than two examples, constant or non-finite values."""
    from scipy.stats import pearsonr

    return float(pearsonr(predictions, references)[0]) if _varied(predictions) and _varied(references) else math.nan


def spearman(predictions: Sequence[float], references: Sequence[float]) -> float:
    """Spearman rank correlation, ties at their average rank; nan as `pearson`."""
    from scipy.stats import spearmanr

    return float(spearmanr(predictions, references)[0]) if _varied(predictions) and _varied(references) else math.nan


def text_macro_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """`macro_f1` of raw texts against the first reference of each."""
    return macro_f1(predictions, _first(references))


def text_matthews(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """`matthews` of "the text is `acceptable`" (CoLA), first references, white space at the ends ignored."""
    return matthews(*([int(text.strip() == "acceptable") for text in texts] for texts in (predictions, _first(references))))


def text_pearson(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """`pearson` of the numbers that the texts spell; nan where one text is not a number."""
    return pearson([_number(text) for text in predictions], [_number(text) for text in _first(references)])


def text_spearman(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """`spearman` of the numbers that the texts spell; nan where one text is not a number."""
    return spearman([_number(text) for text in predictions], [_number(text) for text in _first(references)])


def _equal(prediction: int, reference: int) -> float:
    return float(prediction == reference)


def _squared_error(prediction: float, reference: float) -> float:
    return (prediction - reference) ** 2


DEFINITIONS: dict[str, Definition] = {
    "accuracy": Definition("classes", _equal, as_text="ACC"),
    "f1": Definition("classes", corpus=binary_f1),
    "macro_f1": Definition("classes", corpus=macro_f1, as_text="Classification-F1"),
    "matthews": Definition("classes", corpus=matthews, as_text="Matthew-Correlation"),
    "pearson": Definition("values", corpus=pearson, as_text="Pearson-Correlation"),
    "spearman": Definition("values", corpus=spearman, as_text="Spearman-Correlation"),
    "mse": Definition("values", _squared_error, higher_is_better=False),
    "ACC": Definition("texts", best_of(same_text)),
    "EM": Definition("texts", best_of(same_normalized)),
    "QA-F1": Definition("texts", best_of(bag_f1)),
    "Rouge-L": Definition("texts", best_of(rouge_l)),
    # Paths compare points by the examples they get right, so the macro average comes with each example's accuracy.
    "Classification-F1": Definition("texts", best_of(same_text), text_macro_f1),
    "Matthew-Correlation": Definition("texts", corpus=text_matthews),
    "Pearson-Correlation": Definition("texts", corpus=text_pearson),
    "Spearman-Correlation": Definition("texts", corpus=text_spearman),
}
"""Every metric by its name; those of texts carry the names of the published tables."""


@contextmanager
def _recursion(words: int) -> Iterator[None]:
    # The package walks back through its table one call per word, deeper than the default limit for a long answer.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + words)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _f1(predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(list(references), list(predictions), labels=labels, average="macro", zero_division=math.nan))


def _first(references: Sequence[Sequence[str]]) -> list[str]:
    for number, texts in enumerate(references):
        if not texts:
            raise DeltatuneError(f"example number {number} has no reference; this metric needs one for each")
    return [texts[0] for texts in references]


def _number(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        return math.nan


def _varied(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values)) and len(set(values)) > 1
