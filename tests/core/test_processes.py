"""Training under several processes; run as a program, this file is one of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from deltatune.core.optim import OptimizerConfig
from deltatune.core.train import Hooks, TrainConfig, fit


def train():
    """A run whose micro-batches do not divide evenly, with one tensor that never gets a gradient."""
    config = TrainConfig(OptimizerConfig("adafactor", lr=0.05), steps=5, batch_size=3, accumulation=2, eval_every=2)
    params = {name: torch.ones(2, requires_grad=True) for name in ("w", "idle")}
    batches = config.batches(list(range(7)), lambda xs: {"x": torch.tensor([[float(x), 1.0] for x in xs])})
    history = fit(
        lambda batch: (batch["x"] @ params["w"]).square().mean(),
        params,
        batches,
        config,
        evaluate=lambda: -float(params["w"].detach().square().sum()),
        hooks=Hooks(progress=False),
    )
    weights = [params[name].tolist() for name in params]
    return [history.losses, *weights, history.best_step, Accelerator().num_processes]


def test_two_processes_do_what_one_does():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    alone = train()
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed[0] == printed[1]
    losses, weights, idle, best_step, processes = json.loads(printed[0])
    assert losses == pytest.approx(alone[0], rel=1e-5)
    assert weights == pytest.approx(alone[1], rel=1e-5)
    assert (idle, best_step, processes) == ([1.0, 1.0], alone[3], 2)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(train()))
    sys.stdout.flush()
    # Without it the threads of the process group may outlive the interpreter, which then aborts.
    torch.distributed.destroy_process_group()
