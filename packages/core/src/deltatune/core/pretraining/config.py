"""What is hidden from the model, and how long and in what portions it learns to find it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deltatune.core.errors import DeltatuneError
from deltatune.core.optim import OptimizerConfig
from deltatune.core.resume import REPORTING
from deltatune.core.run import plain
from deltatune.core.train_config import TrainConfig


@dataclass(frozen=True)
class MaskedLM:
    """Masked language modelling of an encoder (Devlin et al., 2019), hidden places drawn anew at each use (Liu et al., 2019).

    Args:
        share: probability that a token is hidden, where its document does not say how likely its words are.
        mask: share of the hidden tokens shown as the mask.
        random: share of them shown as a random other token; the rest is shown as it is.
        pack: fill rows to max_length with documents one after the other; otherwise one document per row, cut there.
        max_length: tokens of a row, special tokens included; null for the model's longest input, 512 at most.
        shift: the positions of a row begin at a random offset from 0 to this after the first token, so that positions further
            on are learned too.
        shifted: share of the rows of which that is so; the others begin at the beginning.
    """

    share: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    pack: bool = True
    max_length: int | None = None
    shift: int = 0
    shifted: float = 1.0

    def __post_init__(self) -> None:
        _shares(self, ("share", "mask", "random", "shifted"))
        if self.mask + self.random > 1.0 + 1e-9:
            raise DeltatuneError(f"mask {self.mask} and random {self.random} add up to more than 1; lower one")
        if self.share == 0.0:
            raise DeltatuneError("share must be above 0: with nothing hidden there is nothing to learn")
        if self.shift < 0:
            raise DeltatuneError(f"shift must be at least 0, got {self.shift}")
        _length(self.max_length)


@dataclass(frozen=True)
class SpanCorruption:
    """Span corruption of an encoder-decoder (Raffel et al., 2020): `a S0 c` is asked, `S0 b </s>` is the answer.

    Hidden tokens that stand side by side are one span. With `words`, whole words are hidden instead of random spans.

    Args:
        density: share of the tokens hidden.
        mean_length: mean tokens of a span.
        words: how many salient words of a row are hidden, one of these numbers at random; null for random spans.
        salient: a word whose weight in its document is above this is salient, one with a lower weight above 0 is not.
        other: probability that one of the other words is hidden too.
        pack: fill rows to max_length with documents one after the other; otherwise one document per row, cut there.
        max_length: tokens of a row, the end token included; null for 512.
    """

    density: float = 0.15
    mean_length: float = 3.0
    words: tuple[int, ...] | None = None
    salient: float = 0.15
    other: float = 0.3
    pack: bool = True
    max_length: int | None = None

    def __post_init__(self) -> None:
        _shares(self, ("density", "salient", "other"))
        if not self.mean_length >= 1.0:
            raise DeltatuneError(f"mean_length must be at least 1, got {self.mean_length}")
        if self.words is not None and (not self.words or min(self.words) < 1):
            raise DeltatuneError(f"words must name numbers from 1, got {self.words}")
        _length(self.max_length)


Objective = MaskedLM | SpanCorruption

# Adam's settings and the warm-up share are those of the recyclable specification (2.2); Adafactor's are those of T5.
_ADAMW = OptimizerConfig(lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, warmup=0.06)
_ADAFACTOR = OptimizerConfig(name="adafactor", lr=1e-3, scale_parameter=True, warmup=0.06)


@dataclass(frozen=True)
class PretrainConfig:
    """Everything but model and texts that decides the outcome of a pre-training.

    Args:
        objective: what is hidden and how.
        steps: updates.
        optimizer: update rule, learning rate and schedule; None takes AdamW (1e-4) for masked language modelling and Adafactor
            with rates relative to the parameter (1e-3) for span corruption, both linear after a warm-up of 6%.
        batch_size: rows in one forward pass.
        batch_tokens: tokens, padding included, in one forward pass of rows of similar length; takes the place of batch_size.
        accumulation: forward passes per update.
        mixture: share of the forward passes that are supervised examples.
        mixture_size: examples in one such pass.
        snapshots: updates between snapshots, or a list of the updates to keep; None for none.
        probe_every: updates between zero-shot scores; None scores at the end alone.
        seed: of the order of rows, of what is hidden and of dropout.
        precision: fp32, or bf16: forward passes in bfloat16, weights and optimizer in their own type.
        log_every: updates between log lines.
        save_every: updates between saved states to resume from; None for none.
    """

    objective: Objective
    steps: int = 1000
    optimizer: OptimizerConfig | None = None
    batch_size: int = 16
    batch_tokens: int | None = None
    accumulation: int = 1
    mixture: float = 0.0
    mixture_size: int = 16
    snapshots: int | tuple[int, ...] | None = None
    probe_every: int | None = None
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 50
    save_every: int | None = None

    def __post_init__(self) -> None:
        _shares(self, ("mixture",))
        for name in ("mixture_size", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise DeltatuneError(f"{name} must be at least 1, got {value}")
        if self.mixture and isinstance(self.objective, MaskedLM):
            raise DeltatuneError("a mixture with supervised texts needs span corruption: a masked language model has no decoder")
        _ = self.train  # checks the rest

    @property
    def train(self) -> TrainConfig:
        """The same for `fit`."""
        default = _ADAMW if isinstance(self.objective, MaskedLM) else _ADAFACTOR
        return TrainConfig(
            optimizer=self.optimizer or default,
            steps=self.steps,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            eval_every=self.probe_every or self.steps,
            select="last",
            snapshots=self.snapshots,
            data_seed=self.seed,
            dropout_seed=self.seed,
            precision=self.precision,
            log_every=self.log_every,
            save_every=self.save_every,
        )

    def identity(self) -> dict[str, Any]:
        """All settings that can change the outcome, as plain values."""
        settings = {name: value for name, value in asdict(self).items() if name not in REPORTING}
        kind = type(self.objective).__name__
        return {**plain(settings), "objective": {"kind": kind, **plain(settings["objective"])}}


def _shares(config: object, names: Sequence[str]) -> None:
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise DeltatuneError(f"{name} must be from 0 to 1, got {getattr(config, name)}")


def _length(value: int | None) -> None:
    if value is not None and value < 4:
        raise DeltatuneError(f"max_length must be at least 4, got {value}")
