"""The one training loop: an objective, the tensors it trains, the order of the examples and a configuration go in.

Gradients of several processes are added by an explicit reduce over the trainable tensors, so any objective works under
`accelerate launch` without a wrapper around the model. Order and noise are functions of the update's number, not of
history: a run resumed after update k ends with the weights of one never interrupted, bit for bit on CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch import Tensor

from deltatune.core.batches import Batch, Batches, BatchSource, MicroBatch, derived_seed
from deltatune.core.errors import DeltatuneError, SharedError
from deltatune.core.optim import build_optimizer, schedule
from deltatune.core.precision import hint_at_slow_bf16
from deltatune.core.processes import Processes
from deltatune.core.progress import ProgressBar
from deltatune.core.resume import load_state, save_part, save_state
from deltatune.core.selection import Selection
from deltatune.core.shards import joint_norm, reduce_gradients, shards_of
from deltatune.core.train_config import TrainConfig

__all__ = ["Batch", "Batches", "History", "Hooks", "TrainConfig", "fit"]


@dataclass(frozen=True)
class Hooks:
    """What `fit` calls on the way.

    Args:
        mode: called with True before updates and with False before each evaluation and at the end, also after an error:
            the place to switch dropout. `fit` itself touches no train or eval flag.
        on_snapshot: called with the number of updates done, at the configured snapshots; the tensors have their values of then.
        log: called with named numbers and the number of updates done, every `log_every` updates and at evaluations.
        state_dir: where the state is written every `save_every` updates (see `deltatune.core.resume`).
        progress: show a bar on a terminal, plain lines elsewhere.
    """

    mode: Callable[[bool], None] | None = None
    on_snapshot: Callable[[int], None] | None = None
    log: Callable[[dict[str, float], int], None] | None = None
    state_dir: Path | None = None
    progress: bool = True


@dataclass
class History:
    """What a run did.

    Args:
        steps: updates done.
        losses: the objective of each update, before that update.
        learning_rates: of each update.
        gradient_norms: joint L2 norm of each update's gradient, before clipping.
        evaluations: (updates done, dev score).
        best_step: updates done at the best evaluation; None without one.
        best_score: its score.
        selected: copies of the tensors chosen by `TrainConfig.select`; the last ones where nothing was evaluated.
        stopped_early: whether the patience ended the run.
        seconds: wall time, summed over interrupted calls.
        tokens: input tokens this process passed forward, padding included.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    selected: dict[str, Tensor] = field(default_factory=dict)
    stopped_early: bool = False
    seconds: float = 0.0
    tokens: int = 0


def fit(
    loss: Callable[[Batch], Tensor],
    params: Mapping[str, Tensor],
    batches: BatchSource,
    config: TrainConfig,
    *,
    evaluate: Callable[[], float] | None = None,
    hooks: Hooks | None = None,
    resume_from: Path | None = None,
) -> History:
    """Train `params` in place on `loss` and say what happened.

    Args:
        loss: of a batch on the device of `params`; a scalar, the mean over the batch (see `Batches.weigh`).
        params: name -> trainable leaf tensor, all on one device. They end at their last values, whatever was selected. Of
            `Divided` ones each process holds, trains and saves its own part.
        batches: usually `config.batches(features, collate)`.
        config: everything else that decides the outcome.
        evaluate: the dev score, greater is better, called with `params` as they are then.
        hooks: what to call on the way.
        resume_from: a folder with the state of an interrupted run of the same configuration.

    torch's global generators are reseeded before every forward pass from (dropout_seed, update, pass, process) and are
    put back at the end, so the caller's draws are as if `fit` had not run.

    Raises:
        DeltatuneError: loss or gradient not finite (nothing is saved from then on), GPU memory too small, nothing to
            train, or a state that does not fit.
    """
    hooks = hooks or Hooks()
    run = _Run(params, batches, config)
    if config.precision == "bf16":
        hint_at_slow_bf16(run.device.type)
    if resume_from is not None:
        run.load(resume_from)
    history, main, started = run.history, run.processes.is_main_process, time.perf_counter() - run.history.seconds
    switch = hooks.mode or (lambda training: None)
    with ExitStack() as stack:
        stack.enter_context(_generators_kept(run.device))
        bar = stack.enter_context(ProgressBar("train", run.total, history.steps, hooks.progress and main))
        stack.callback(switch, False)
        switch(True)
        while history.steps < run.total and not run.selection.stop:
            run.update(loss)
            step = history.steps
            evaluated = evaluate is not None and step % (config.eval_every or run.per_epoch) == 0
            logged = step % config.log_every == 0 or step == run.total
            saved = hooks.state_dir is not None and config.save_at(step)
            snapshot = hooks.on_snapshot is not None and config.snapshot_at(step)
            # Reading a loss waits for the device. On CPU there is nothing to wait for, so a bad one is found at once;
            # elsewhere it is found before anything could be kept of it.
            if run.device.type == "cpu" or logged or evaluated or snapshot or saved:
                run.settle()
                bar.advance(step, f"loss {run.recent_loss():.4f}", line=logged)
            if evaluate is not None and evaluated:
                switch(False)
                run.judge(float(evaluate()))
                switch(True)
            if hooks.log is not None and main and (logged or evaluated):
                hooks.log(run.numbers(logged, evaluated), step)
            if hooks.on_snapshot is not None and main and snapshot:
                hooks.on_snapshot(step)
            history.seconds = time.perf_counter() - started
            if hooks.state_dir is not None and saved:
                run.save(hooks.state_dir)
    history.stopped_early = run.selection.stop and history.steps < run.total
    history.selected = run.best if config.select == "best" and run.best else run.copies()
    return history


class _Run:
    """The moving parts of one call of `fit`."""

    def __init__(self, params: Mapping[str, Tensor], batches: BatchSource, config: TrainConfig) -> None:
        self.params, self.batches, self.config = params, batches, config
        self.optimizer = build_optimizer(self.params, config.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        self.device = next(iter(self.params.values())).device
        self.processes = PartialState(cpu=self.device.type == "cpu")
        count = self.processes.num_processes
        self.together = Processes(self.processes.process_index, count) if shards_of(params) and count > 1 else None
        self.per_epoch = batches.per_epoch(config.accumulation)
        self.total = config.total(self.per_epoch)
        config.require_reached(self.total)
        self.history = History()
        self.selection = Selection(config.ties, config.early_stopping)
        self.best: dict[str, Tensor] = {}
        self._unsettled: list[Tensor] = []  # (loss, gradient norm) of updates not yet read from the device

    def update(self, loss: Callable[[Batch], Tensor]) -> None:
        """One optimizer update: gradients of its micro-batches, sum over processes, clipping, step."""
        step, state = self.history.steps, self.processes
        rate = self.config.optimizer.rate * schedule(self.config.optimizer, step, self.total)
        parts = self.batches.micro_batches(step, self.config.accumulation, state.process_index, state.num_processes)
        value = torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            value += self._backward(loss, part, number)
            self.history.tokens += part.rows * part.length
        if state.num_processes > 1:
            value = reduce_gradients(self.params, value)
        norm = joint_norm(self.params)
        if self.config.optimizer.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.params.values(), self.config.optimizer.max_grad_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # here, so that evaluation and saving hold no gradients
        self._unsettled.append(torch.stack((value, norm.to(value))))
        self.history.learning_rates.append(rate)
        self.history.steps += 1

    def _backward(self, loss: Callable[[Batch], Tensor], part: MicroBatch, number: int) -> Tensor:
        key = (self.config.dropout_seed, self.history.steps, number, self.processes.process_index)
        _seed(self.device, derived_seed("noise", *key))
        try:
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in part.batch.items()}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                value = loss(batch)
            if value.ndim or not value.requires_grad:
                raise DeltatuneError(
                    f"the loss must be one number that depends on the trained tensors ({', '.join([*self.params][:3])}"
                    f", ...), got shape {tuple(value.shape)}; check what is frozen"
                )
            (value * part.weight).backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError as error:
            raise DeltatuneError(
                f"GPU memory is too small for {part.rows} examples of {part.length} tokens at update "
                f"{self.history.steps + 1}; lower batch_size and raise accumulation, or set token_budget"
            ) from error
        return value.detach().float() * part.weight

    def settle(self) -> None:
        """Read the losses still on the device into the history, and refuse what is not finite."""
        for value, norm in torch.stack(self._unsettled).tolist():
            done = len(self.history.losses)
            if not (math.isfinite(value) and math.isfinite(norm)):
                what = f"the gradient norm is {norm}" if math.isfinite(value) else f"the loss is {value}"
                rate = self.history.learning_rates[done]
                other = " or train in fp32" if self.config.precision == "bf16" else " or look for bad input"
                raise SharedError(f"{what} at update {done + 1}; lower optimizer.lr (now {rate:.3g}){other}")
            self.history.losses.append(value)
            self.history.gradient_norms.append(norm)
        self._unsettled.clear()

    def judge(self, score: float) -> None:
        """Take in a dev score: the first process's, so that all processes decide alike."""
        if self.processes.num_processes > 1:
            score = broadcast(torch.tensor(score, dtype=torch.float64, device=self.device)).item()
        history, selection = self.history, self.selection
        history.evaluations.append((history.steps, score))
        if selection.observe(history.steps, score) and self.config.select == "best":
            self.best = self.copies()
        history.best_step, history.best_score = selection.best_step, selection.best_score

    def recent_loss(self) -> float:
        """Mean loss since the last log line."""
        losses = self.history.losses
        recent = losses[(len(losses) - 1) // self.config.log_every * self.config.log_every :]
        return math.fsum(recent) / len(recent)

    def numbers(self, logged: bool, evaluated: bool) -> dict[str, float]:
        """What a tracker is told now."""
        history = self.history
        training = {
            "loss": self.recent_loss(),
            "learning_rate": history.learning_rates[-1],
            "gradient_norm": history.gradient_norms[-1],
        }
        return (training if logged else {}) | ({"dev_score": history.evaluations[-1][1]} if evaluated else {})

    def copies(self) -> dict[str, Tensor]:
        """The tensors as they are now."""
        return {name: tensor.detach().clone() for name, tensor in self.params.items()}

    def _identity(self) -> dict[str, Any]:
        return {**asdict(self.config), "examples": self.batches.size}

    def save(self, folder: Path) -> None:
        """Write everything the rest of the run depends on: on the first process, or on each its part."""
        if self.together is None and not self.processes.is_main_process:
            return
        history = {name: value for name, value in vars(self.history).items() if name != "selected"}
        state: dict[str, Any] = {"params": self.copies(), "optimizer": self.optimizer.state_dict(), "best": self.best}
        state |= {"config": self._identity(), "history": history, "failures": self.selection.failures}
        if self.together is None:
            save_state(folder, state)
        else:
            save_part(folder, state, self.history.steps, self.together)

    def load(self, folder: Path) -> None:
        """Go back to where `save` was called."""
        state = load_state(folder, self._identity(), self.params, self.together)
        with torch.no_grad():
            for name, tensor in self.params.items():
                tensor.copy_(state["params"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = {name: tensor.to(self.device) for name, tensor in state["best"].items()}
        self.history = History(**state["history"])
        self.selection.best_step, self.selection.best_score = self.history.best_step, self.history.best_score
        self.selection.failures = state["failures"]


def _generators_kept(device: torch.device) -> AbstractContextManager[None]:
    """Put torch's global generators of CPU and `device` back on leaving."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


def _seed(device: torch.device, seed: int) -> None:
    """Seed torch's global generators of CPU and `device`, and of no other device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
