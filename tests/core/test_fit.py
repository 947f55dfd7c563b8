"""What `fit` promises beyond its arithmetic: exact resuming, untouched generators, clean failure."""

from __future__ import annotations

import pickle
import re
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.core import shards, train
from deltatune.core.errors import DeltatuneError, SharedError
from deltatune.core.optim import OptimizerConfig
from deltatune.core.train import Hooks, TrainConfig, fit

QUIET = Hooks(progress=False)
CONFIG = TrainConfig(OptimizerConfig(lr=0.05, warmup=2), steps=7, batch_size=2, accumulation=2, eval_every=3)


class Net:
    """A small network with dropout, so that noise matters, trained on fixed numbers."""

    def __init__(self, count=7):
        noise = torch.Generator().manual_seed(0)
        self.params = {
            "w": torch.randn(3, 4, generator=noise).requires_grad_(),
            "bias": torch.randn(3, generator=noise).requires_grad_(),
        }
        self.features = torch.randn(count, 4, generator=noise).unbind()
        self.calls = 0

    def loss(self, batch):
        self.calls += 1
        hidden = torch.nn.functional.dropout(batch["x"], 0.5)
        return (hidden @ self.params["w"].T + self.params["bias"]).tanh().square().mean()

    def evaluate(self):
        return -float(self.params["w"].detach().square().sum())

    def fit(self, config, hooks=QUIET, **more):
        batches = config.batches(self.features, lambda xs: {"x": torch.stack(xs)})
        return fit(self.loss, self.params, batches, config, evaluate=self.evaluate, hooks=hooks, **more)


class InterruptedRunError(Exception):
    """Stands for Ctrl-C."""


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["adamw", "adafactor"]),
    accumulation=st.integers(1, 3),
    save_every=st.integers(1, 4),
    later=st.integers(0, 3),
    grouped=st.booleans(),
)
def test_a_resumed_run_ends_bit_for_bit_as_one_never_interrupted(
    tmp_path_factory, name, accumulation, save_every, later, grouped
):
    folder = tmp_path_factory.mktemp("run")
    optimizer = OptimizerConfig(name, lr=0.05, weight_decay=0.1, warmup=2)
    config = replace(CONFIG, optimizer=optimizer, accumulation=accumulation, early_stopping=2)
    config = replace(config, save_every=save_every, ties="last")
    straight = Net()
    expected = straight.fit(config)
    broken = Net()
    whole_loss, limit = broken.loss, min(save_every + later, 6) * accumulation

    def failing(batch):
        if broken.calls >= limit:
            raise InterruptedRunError
        return whole_loss(batch)

    broken.loss = failing
    with suppress(InterruptedRunError):
        broken.fit(config, replace(QUIET, state_dir=folder))
    if not (folder / "state.pt").exists():
        return
    again = Net()
    history = again.fit(config, resume_from=folder)
    assert again.calls < straight.calls
    for tensor in straight.params:
        assert torch.equal(straight.params[tensor], again.params[tensor])
        assert torch.equal(expected.selected[tensor], history.selected[tensor])
    for field in ("steps", "losses", "learning_rates", "gradient_norms", "evaluations", "best_step", "stopped_early"):
        assert getattr(history, field) == getattr(expected, field)


def test_resuming_a_finished_run_does_nothing_more(tmp_path):
    config = replace(CONFIG, save_every=7)
    first, second = Net(), Net()
    done = first.fit(config, replace(QUIET, state_dir=tmp_path))
    again = second.fit(replace(config, save_every=None, log_every=1), resume_from=tmp_path)
    assert second.calls == 0
    assert again.losses == done.losses
    assert all(torch.equal(first.params[n], second.params[n]) for n in first.params)


def test_dropout_follows_its_own_seed():
    def losses(**seeds):
        return Net().fit(replace(CONFIG, **seeds)).losses

    assert losses() == losses()
    assert losses(dropout_seed=1) != losses() != losses(data_seed=1)


def test_the_callers_generators_are_as_before():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Net().fit(CONFIG)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(3)
    broken = Net()
    broken.loss = lambda batch: torch.rand(()) / 0
    with pytest.raises(DeltatuneError):
        broken.fit(CONFIG)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_and_saves_nothing(value, tmp_path):
    net = Net()
    whole_loss, snapshots = net.loss, []
    net.loss = lambda batch: whole_loss(batch) * (value if net.calls > 8 else 1.0)
    hooks = replace(QUIET, state_dir=tmp_path, on_snapshot=snapshots.append)
    with pytest.raises(DeltatuneError, match=f"loss is {value} at update 5; lower optimizer.lr") as caught:
        net.fit(replace(CONFIG, save_every=1, snapshots=1), hooks)
    assert "\n" not in str(caught.value)
    assert snapshots == [1, 2, 3, 4]
    assert torch.load(tmp_path / "state.pt", weights_only=True)["history"]["steps"] == 4


def test_a_gradient_that_is_no_number_ends_the_run():
    net = Net()
    net.loss = lambda batch: (net.params["w"] - net.params["w"].detach()).abs().sum().sqrt()
    with pytest.raises(DeltatuneError, match="gradient norm is nan at update 1"):
        net.fit(CONFIG)


def test_the_end_of_another_process_is_one_line(monkeypatch):
    def lost(tensors, reduction):
        raise RuntimeError("Connection closed by peer\nmany lines")

    monkeypatch.setattr(
        train, "PartialState", lambda cpu: SimpleNamespace(num_processes=2, process_index=0, is_main_process=True)
    )
    monkeypatch.setattr(shards, "reduce", lost)
    with pytest.raises(SharedError, match=r"^another process of this launch has ended; see what it says"):
        Net().fit(CONFIG)


def test_too_little_gpu_memory_is_one_line():
    net = Net()

    def loss(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n many lines")

    net.loss = loss
    with pytest.raises(DeltatuneError, match=r"too small for 2 examples .* at update 1; lower batch_size") as caught:
        net.fit(CONFIG)
    assert "\n" not in str(caught.value)


def test_a_loss_that_trains_nothing_is_refused():
    net = Net()
    net.loss = lambda batch: batch["x"].sum()
    with pytest.raises(DeltatuneError, match="depends on the trained tensors"):
        net.fit(CONFIG)
    net.loss = lambda batch: net.params["w"]
    with pytest.raises(DeltatuneError, match="must be one number"):
        net.fit(CONFIG)


def test_mode_is_switched_around_evaluations_and_after_errors():
    net, calls = Net(), []
    net.evaluate = lambda: calls.append("evaluate") or 0.0
    net.fit(CONFIG, replace(QUIET, mode=calls.append))
    assert calls == [True, False, "evaluate", True, False, "evaluate", True, False]
    calls.clear()
    net.evaluate = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        net.fit(CONFIG, replace(QUIET, mode=calls.append))
    assert calls[-1] is False


def test_bf16_computes_the_loss_in_bfloat16_and_keeps_the_weights():
    net, seen = Net(), []
    whole_loss = net.loss
    net.loss = lambda batch: seen.append((batch["x"] @ net.params["w"].T).dtype) or whole_loss(batch)
    net.fit(replace(CONFIG, precision="bf16", steps=1))
    assert set(seen) == {torch.bfloat16}
    assert net.params["w"].dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_tracker_and_lines_report_means_since_the_last(capsys):
    told = []
    config = replace(CONFIG, log_every=2, eval_every=4)
    history = Net().fit(config, Hooks(log=lambda numbers, step: told.append((step, numbers))))
    assert [step for step, _ in told] == [2, 4, 6, 7]
    assert told[1][1]["loss"] == pytest.approx(sum(history.losses[2:4]) / 2)
    assert told[3][1]["loss"] == pytest.approx(history.losses[6])
    assert told[1][1]["dev_score"] == history.best_score
    assert "dev_score" not in told[0][1]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.findall(r"^train (\d)/7 loss", printed.err, re.MULTILINE) == ["2", "4", "6", "7"]
    Net().fit(config, QUIET)
    assert capsys.readouterr().err == ""


def test_a_state_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(DeltatuneError, match="there is no"):
        Net().fit(CONFIG, resume_from=tmp_path)
    config = replace(CONFIG, save_every=2)
    Net().fit(config, replace(QUIET, state_dir=tmp_path))
    with pytest.raises(DeltatuneError, match="steps was 7 and is 9"):
        Net().fit(replace(config, steps=9), resume_from=tmp_path)
    with pytest.raises(DeltatuneError, match="examples was 7 and is 6"):
        Net(6).fit(config, resume_from=tmp_path)
    wider = Net()
    wider.params["w"] = torch.zeros(5, 4, requires_grad=True)
    with pytest.raises(DeltatuneError, match=r"w is \(3, 4\) there, \(5, 4\) here"):
        wider.fit(config, resume_from=tmp_path)
    state = tmp_path / "state.pt"
    whole = state.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], pickle.dumps({"config": Net}, protocol=2), b"no state"):
        state.write_bytes(damaged)
        with pytest.raises(DeltatuneError, match="damaged or no training state"):
            Net().fit(config, resume_from=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.pt"]


def test_a_full_disk_keeps_the_earlier_state(tmp_path, monkeypatch):
    config, hooks = replace(CONFIG, save_every=2), replace(QUIET, state_dir=tmp_path)
    Net().fit(config, hooks)
    before = (tmp_path / "state.pt").read_bytes()

    def short_write(state, path):
        path.write_bytes(b"part")
        raise RuntimeError("unexpected pos 704 vs 598\nframes")

    monkeypatch.setattr(torch, "save", short_write)
    with pytest.raises(DeltatuneError, match=r"disk may be full \(unexpected pos 704 vs 598\); free some space"):
        Net().fit(config, hooks)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"accumulation": 0}, "accumulation"),
        ({"eval_every": 0}, "eval_every"),
        ({"early_stopping": -1}, "early_stopping"),
        ({"epochs": 0.0}, "epochs"),
        ({"snapshots": (3, 0)}, "snapshots"),
        ({"snapshots": 0}, "snapshots"),
        ({"select": "worst"}, "'worst'"),
        ({"precision": "fp8"}, "'fp8'"),
    ],
)
def test_a_bad_setting_is_named(change, named):
    with pytest.raises(DeltatuneError, match=named):
        replace(CONFIG, **change)
