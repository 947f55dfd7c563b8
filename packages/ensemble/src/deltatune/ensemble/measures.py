"""The ways to weigh sources: what each looks at, which direction is better, and the published temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deltatune.core.errors import DeltatuneError

Needs = Literal["nothing", "taxonomy", "examples", "gradients", "reference", "runs"]


@dataclass(frozen=True)
class Measure:
    """A score of how well a source suits a target.

    Args:
        name: on the command line and in files.
        sign: +1 if a larger score means a better source, -1 if a smaller one does.
        temperature: of the published softmax.
        needs: examples: forward passes; gradients: backward passes too; reference: a delta tuned on the target; runs: each source
            tuned on the target; taxonomy: categories of tasks.
        summary: one line.
        measured_as: the measure whose scores these are, where only the sign differs.
        merges: which deltas the weights are for: the sources, or (tuned) the sources after tuning on the target.
    """

    name: str
    sign: int
    temperature: float
    needs: Needs
    summary: str
    measured_as: str | None = None
    merges: Literal["source", "tuned"] = "source"

    @property
    def scores(self) -> str:
        """Name of what is measured."""
        return self.measured_as or self.name


_ALL = (
    Measure("uniform", 1, 1.0, "nothing", "equal weights (published: Avg. of Checkpoints)"),
    Measure("manual", 1, 1.0, "taxonomy", "equal weights within the target's category (published: Manual Division)"),
    Measure("loss", -1, 0.1, "examples", "mean cross entropy over answer tokens"),
    Measure("el2n", -1, 0.1, "examples", "length of the error vector p - onehot(y)"),
    Measure("label_cosine", 1, 0.1, "examples", "cosine of p and onehot(y) (published: Cosine of Logits and Labels)"),
    Measure("kl", -1, 0.1, "reference", "KL divergence from the predictions of a delta tuned on the target"),
    Measure("grand", -1, 0.1, "gradients", "length of the gradient of the delta (published: GraNd)"),
    Measure("hidden_cosine", 1, 0.1, "reference", "cosine of states between blocks with those of a delta tuned on the target"),
    Measure("weight_cosine", 1, 0.001, "reference", "mean cosine of the tensors with those of a delta tuned on the target"),
    Measure("euclidean", -1, 0.1, "runs", "how far tuning on the target moves the source"),
    Measure("performance", 1, 0.001, "runs", "how much tuning on the target improves the source on dev", merges="tuned"),
    Measure("label_cosine_as_released", -1, 0.1, "examples", "label_cosine with the released script's sign",
            "label_cosine"),
    Measure("hidden_cosine_as_released", -1, 0.1, "reference", "hidden_cosine with the released script's sign", "hidden_cosine"),
    Measure("performance_as_earlier", -1, 0.001, "runs", "performance with the sign of a revision", "performance", "tuned"),
)  # fmt: skip

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}


def measure(name: str) -> Measure:
    """The measure called `name`.

    Raises:
        DeltatuneError: there is none.
    """
    if name not in MEASURES:
        raise DeltatuneError(f"unknown measure '{name}'; choose from {', '.join(MEASURES)}")
    return MEASURES[name]
