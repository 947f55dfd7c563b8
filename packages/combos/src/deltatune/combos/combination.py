"""Which deltas are tuned, together or one after the other: `prompt+bias`, `adapter>prompt>bias`, `none`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deltatune.core.delta import BitFit, DeltaConfig, Full, Houlsby, LoRA, Prefix, SoftPrompt, Tuned
from deltatune.core.errors import DeltatuneError

MethodName = Literal["prompt", "bias", "adapter", "lora", "prefix", "full"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
Stage = tuple[MethodName, ...]

SIMULTANEOUS = ("none", "adapter", "bias", "bias+adapter", "prompt", "prompt+adapter", "prompt+bias", "prompt+bias+adapter")
"""All subsets of the paper's three methods, in the order of its tables."""

_KINDS: dict[MethodName, type[DeltaConfig]] = {
    "prompt": SoftPrompt,
    "bias": BitFit,
    "adapter": Houlsby,
    "lora": LoRA,
    "prefix": Prefix,
    "full": Full,
}


@dataclass(frozen=True)
class Sizes:
    """How large the deltas are; the defaults are the published ones.

    Args:
        prompt_length: vectors of the soft prompt (published: `prompt_num`).
        prompt_place: where a template shows the soft prompt: first, behind the first token; or last, before the last separator,
            so that no word of the text is moved.
        reduction: the adapters' inner width is the model's divided by this.
        width: the adapters' inner width itself; null takes `reduction`.
        activation: of the adapters.
        rank: of LoRA.
        prefix_length: vectors of prefix tuning.
    """

    prompt_length: int = 10
    prompt_place: Literal["first", "last"] = "first"
    reduction: int = 16
    width: int | None = None
    activation: Literal["silu", "relu", "gelu", "gelu_new"] = "silu"
    rank: int = 8
    prefix_length: int = 16

    def delta(self, method: MethodName, in_template: bool) -> DeltaConfig:
        """The delta of a method; `in_template`: a template shows the soft prompt."""
        match method:
            case "prompt":
                return SoftPrompt(self.prompt_length, "template" if in_template else "auto")
            case "bias":
                return BitFit()
            case "adapter":
                return Houlsby(self.width, self.reduction, self.activation, placement="after_dropout")
            case "lora":
                return LoRA(rank=self.rank)
            case "prefix":
                return Prefix(length=self.prefix_length)
            case "full":
                return Full()


@dataclass(frozen=True)
class Combination:
    """Stages one after the other, each of methods that are tuned together; no stage is zero-shot. `str` gives the text back."""

    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        return ">".join("+".join(stage) for stage in self.stages) or "none"

    @classmethod
    def parse(cls, text: str) -> Combination:
        """The combination that `text` spells: methods with + between them, stages with > between them, or none.

        Raises:
            DeltatuneError: an unknown method, or one twice.
        """
        if text.strip() == "none":
            return cls(())
        stages = tuple(_stage(part, text) for part in text.split(">"))
        methods = [method for stage in stages for method in stage]
        for method in methods:
            if methods.count(method) > 1:
                raise DeltatuneError(f"--methods {text}: {method} stands there twice; name each method once")
        return cls(stages)

    @property
    def methods(self) -> Stage:
        """All methods, in the order of `METHODS`."""
        return self.upto(len(self.stages))

    def upto(self, count: int) -> Stage:
        """The methods that are in the model during stage number `count` (from 1).

        A soft prompt is there from the first stage on, since it moves the text; every other method from its own stage on.
        """
        present = {method for stage in self.stages[:count] for method in stage}
        present |= {method for stage in self.stages for method in stage if method == "prompt"}
        return tuple(method for method in METHODS if method in present)


def _stage(part: str, text: str) -> Stage:
    names = [name.strip() for name in part.split("+")]
    for name in names:
        if name not in METHODS:
            raise DeltatuneError(
                f"--methods {text}: there is no method {name!r}; join {', '.join(METHODS)} with + (together) and > (one after "
                "the other), or give none"
            )
    return tuple(method for method in METHODS if method in names)


def owned(tuned: Tuned, stage: Stage) -> set[str]:
    """Names of the tensors that a stage trains: those of its methods, and the task head's where there is one.

    A stage with `bias` also trains the biases of adapters that are in the model, as the published program does.
    """
    found = set(tuned.head_names)
    for delta in tuned.kinds():
        names = list(delta.names())
        if any(isinstance(delta.config, _KINDS[method]) for method in stage):
            found |= set(names)
        elif "bias" in stage and isinstance(delta.config, Houlsby):
            found |= {name for name in names if name.endswith(".bias")}
    return found
