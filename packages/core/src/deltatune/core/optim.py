"""The two optimizers of the papers and their learning rate schedules.

AdamW (Loshchilov and Hutter, 2019) is torch's own. Adafactor (Shazeer and Stern, 2018, "Adafactor: Adaptive Learning
Rates with Sublinear Memory Cost", Algorithms 4 to 6) is here because `torch.optim.Adafactor` always multiplies the
rate by the size of the parameter, which the papers switch off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from deltatune.core.errors import DeltatuneError
from deltatune.core.shards import Shard, mean, rms, shards_of


class Adafactor(torch.optim.Optimizer):
    """Adafactor with a fixed rate by default (Shazeer and Stern, 2018).

    With gradient G at update t = 1, 2, ... and beta_t = 1 - t^decay_rate, the second moment is the running average of
    G^2 + eps[0]: for a tensor of two or more dimensions only its row means R (..., n) and column means C (..., m) are
    kept, and V = R C^T / mean(R); for fewer dimensions V is kept whole. The step is U = G / sqrt(V), divided by
    max(1, RMS(U) / clip_threshold), times the rate; decoupled decay subtracts rate * weight_decay * parameter first.
    State and arithmetic are float32 whatever the parameter's type. Of a matrix of which each process holds a part (`shards`),
    means are those of the whole matrix.

    Args:
        params: tensors or parameter groups, as for every torch optimizer.
        lr: the rate; None where `relative_step` makes it.
        eps: added to squared gradients, and the least parameter size `scale_parameter` assumes.
        clip_threshold: largest root mean square of a step before the rate.
        decay_rate: exponent of t in beta_t, negative.
        beta1: coefficient of the running average of steps; None keeps no such average.
        weight_decay: decoupled decay, a fraction per update and unit of rate.
        scale_parameter: multiply the rate by max(eps[1], RMS(parameter)).
        relative_step: rate min(0.01, 1 / sqrt(t)) in place of `lr`.
        warmup_init: with `relative_step`, min(1e-6 t, 1 / sqrt(t)).

    Raises:
        DeltatuneError: `lr` and `relative_step` both or neither given, or `warmup_init` without `relative_step`.
    """

    def __init__(  # the optimizer's published settings, each by its published name
        self,
        params: Iterable[Any],
        lr: float | None = None,
        *,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = False,
        relative_step: bool = False,
        warmup_init: bool = False,
    ) -> None:
        if (lr is None) != relative_step:
            raise DeltatuneError(f"Adafactor: lr is {lr} and relative_step {relative_step}; give exactly one of them")
        if warmup_init and not relative_step:
            raise DeltatuneError("Adafactor: warmup_init is True and relative_step False; it needs relative_step")
        settings = locals()
        names = ("lr", "eps", "clip_threshold", "decay_rate", "beta1", "weight_decay")
        switches = ("scale_parameter", "relative_step", "warmup_init")
        super().__init__(params, {name: settings[name] for name in (*names, *switches)})
        self.shards: dict[Tensor, Shard] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; `closure`, if given, is called first and its value returned."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return value

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        gradient = parameter.grad.float()  # type: ignore[union-attr]
        state["step"] = state.get("step", 0) + 1
        weights = parameter.float()
        shard = self.shards.get(parameter)
        rate = _rate(weights, group, state["step"], shard)
        update = gradient * _inverse_root(state, gradient, group, shard)
        update = update * (rate / (rms(update, shard) / group["clip_threshold"]).clamp(min=1.0))
        if group["beta1"] is not None:
            average = state.setdefault("average", torch.zeros_like(update))
            update = average.lerp_(update, 1.0 - group["beta1"])
        if group["weight_decay"]:
            weights = weights - (group["weight_decay"] * rate) * weights
        parameter.copy_(weights - update)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state saved by `state_dict`, in float32 also for half-precision parameters."""
        super().load_state_dict(state_dict)
        # torch casts what it loads to the parameter's type, which would round the moments of bfloat16 parameters.
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, saved in state_dict["state"].items():
            tensors = {k: v.clone().to(parameters[index].device) for k, v in saved.items() if isinstance(v, Tensor)}
            self.state[parameters[index]].update(tensors)


def _rate(weights: Tensor, group: dict[str, Any], step: int, shard: Shard | None) -> float | Tensor:
    rate = float(group["lr"]) if group["lr"] is not None else 0.0
    if group["relative_step"]:
        rate = min(1e-6 * step if group["warmup_init"] else 1e-2, 1.0 / math.sqrt(step))
    return rate * rms(weights, shard).clamp(min=group["eps"][1]) if group["scale_parameter"] else rate


def _inverse_root(state: dict[str, Any], gradient: Tensor, group: dict[str, Any], shard: Shard | None) -> Tensor:
    """1 / sqrt(V), broadcastable to `gradient`, after V has taken in this gradient."""
    new = state["step"] ** group["decay_rate"]  # 1 - beta_t
    square = gradient.square().add_(group["eps"][0])
    if gradient.ndim < 2:
        whole: Tensor = state.setdefault("whole", torch.zeros_like(square))
        return whole.lerp_(square, new).rsqrt()
    rows: Tensor = state.setdefault("rows", torch.zeros_like(square[..., 0]))
    columns: Tensor = state.setdefault("columns", torch.zeros_like(square[..., 0, :]))
    by_rows, by_columns = (shard if shard is not None and shard.dim == dim else None for dim in (0, 1))
    rows.lerp_(mean(square, -1, by_columns), new)
    columns.lerp_(mean(square, -2, by_rows), new)
    relative = rows / mean(rows, -1, by_rows).unsqueeze(-1)
    return relative.rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)


@dataclass(frozen=True)
class OptimizerConfig:
    """How trainable tensors are updated.

    Args:
        name: adamw, or adafactor with a fixed rate (no relative step, no momentum).
        lr: highest learning rate; null where the deltas choose it (`deltatune tune`).
        betas: decay of AdamW's running averages of gradient and squared gradient.
        eps: added to AdamW's denominator.
        weight_decay: decoupled decay, a fraction per update and unit of learning rate.
        no_decay: a tensor whose name contains one of these is never decayed.
        scale_parameter: Adafactor's rate is relative to the size of each tensor.
        schedule: constant, or linear: down to `floor` at the last update.
        floor: share of the rate at which a linear schedule ends.
        warmup: updates of linear rise from 0; a number below 1 with a decimal point is a fraction of all updates.
        max_grad_norm: joint L2 norm to which the gradients are scaled down; null switches it off.
    """

    name: Literal["adamw", "adafactor"] = "adamw"
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ("bias", "LayerNorm.weight", "layer_norm.weight")
    scale_parameter: bool = False
    schedule: Literal["constant", "linear"] = "linear"
    floor: float = 0.0
    warmup: int | float = 0
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        for field, known in (("name", ("adamw", "adafactor")), ("schedule", ("constant", "linear"))):
            if getattr(self, field) not in known:
                raise DeltatuneError(f"optimizer.{field} is {getattr(self, field)!r}; choose {' or '.join(known)}")
        for field in ("lr", "weight_decay", "eps"):
            value = getattr(self, field)
            if value is not None and not 0.0 <= value < math.inf:
                raise DeltatuneError(f"optimizer.{field} must be a number from 0, got {getattr(self, field)}")
        if not 0.0 <= self.floor <= 1.0:
            raise DeltatuneError(f"optimizer.floor must be from 0 to 1, got {self.floor}")
        if self.scale_parameter and self.name != "adafactor":
            raise DeltatuneError(f"optimizer.scale_parameter belongs to adafactor, and optimizer.name is {self.name}")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise DeltatuneError(f"optimizer.betas must be from 0 and below 1, got {self.betas}")
        if self.warmup < 0 or (isinstance(self.warmup, float) and self.warmup >= 1.0):
            raise DeltatuneError(
                f"optimizer.warmup is {self.warmup}; give a whole number of updates, or a fraction from 0.0 below 1.0"
            )
        if self.max_grad_norm is not None and not self.max_grad_norm > 0.0:
            raise DeltatuneError(f"optimizer.max_grad_norm must be above 0 or null, got {self.max_grad_norm}")

    @property
    def rate(self) -> float:
        """The learning rate.

        Raises:
            DeltatuneError: it was left open, and training begins.
        """
        if self.lr is None:
            raise DeltatuneError("optimizer.lr is not set; give a learning rate")
        return self.lr


def schedule(config: OptimizerConfig, step: int, total: int) -> float:
    """The multiple of `config.lr` that update `step` (from 0) of `total` uses, in [0, 1].

    With W warm-up updates, T in total and the floor f it is t / W for t < W, then 1 (constant) or f + (1 - f) (T - t) / (T - W)
    (linear): the convention of the transformers library, whose linear form without warm-up is max(0, (T - t) / T).
    """
    warmup = config.warmup if isinstance(config.warmup, int) else math.ceil(config.warmup * total)
    if step < warmup:
        return step / warmup
    if config.schedule == "constant":
        return 1.0
    return config.floor + (1.0 - config.floor) * max(0.0, (total - step) / max(1, total - warmup))


def build_optimizer(named_params: Mapping[str, Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of `config` over the trainable leaf tensors `named_params`.

    Two parameter groups, decayed and not (`config.no_decay`), where both exist; each keeps the order of the mapping.

    Raises:
        DeltatuneError: there is no tensor, or one is not a floating-point leaf that requires a gradient.
    """
    if not named_params:
        raise DeltatuneError("nothing to train: no trainable tensor was given; choose a delta or unfreeze modules")
    for name, tensor in named_params.items():
        if not (tensor.is_leaf and tensor.requires_grad):
            raise DeltatuneError(f"cannot train {name}: it is not a leaf tensor that requires a gradient")
    decayed = [t for n, t in named_params.items() if not any(part in n for part in config.no_decay)]
    kept = [t for n, t in named_params.items() if any(part in n for part in config.no_decay)]
    both = ((decayed, config.weight_decay), (kept, 0.0))
    groups = [{"params": tensors, "weight_decay": decay} for tensors, decay in both if tensors]
    if config.name == "adafactor":
        optimizer = Adafactor(groups, lr=config.rate, scale_parameter=config.scale_parameter)
        optimizer.shards = {named_params[name]: shard for name, shard in shards_of(named_params).items()}
        return optimizer
    # One fused kernel per group, elementwise and in a fixed order: 5 times faster on CPU than the loop over tensors.
    fused = {tensor.device.type for tensor in named_params.values()} <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, eps=config.eps, fused=fused)
