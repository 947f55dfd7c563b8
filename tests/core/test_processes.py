"""Training under several processes; run as a program, this file is one of them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from deltatune.core import checkpoint, cli
from deltatune.core.files import read_json, write_json
from deltatune.core.optim import OptimizerConfig
from deltatune.core.processes import leave
from deltatune.core.run import read_records
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


@pytest.fixture
def launch(tmp_path):
    """`launch(*words)`: this file run as two processes of a launch; exit codes, and what each printed and complained of."""

    def run(*words):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        running = [
            subprocess.Popen(
                [sys.executable, __file__, *words],
                env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in "01"
        ]
        said = [process.communicate(timeout=300) for process in running]
        return [process.returncode for process in running], said

    return run


def test_two_processes_do_what_one_does(launch):
    codes, said = launch()
    alone = train()
    assert codes == [0, 0], said
    assert said[0][0] == said[1][0]
    losses, weights, idle, best_step, processes = json.loads(said[0][0])
    assert losses == pytest.approx(alone[0], rel=1e-5)
    assert weights == pytest.approx(alone[1], rel=1e-5)
    assert (idle, best_step, processes) == ([1.0, 1.0], alone[3], 2)


@pytest.fixture
def answers(tmp_path):
    """A text-to-text task whose answers have from 1 to 9 words."""
    words = "the movie was great and good not bad or plain".split()  # noqa: SIM905
    lines = [f"{' '.join(words[: 3 + i % 5])}\t{' '.join(words[: 1 + 4 * i % 9])}" for i in range(10)]
    for split in ("train", "dev", "test"):
        (tmp_path / f"talk_{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "talk.yaml").write_text("reader: gym\nmetric: EM\n", encoding="utf-8")
    return tmp_path / "talk.yaml"


def differences(left, right):
    """The greatest difference between the weights of two delta folders."""
    one, other = (checkpoint.read(path).weights for path in (left, right))
    assert list(one) == list(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture
def still(tmp_path):
    """`still(model)`: a copy without dropout, whose noise is another in every process."""

    def make(model):
        folder = shutil.copytree(model, tmp_path / model.name)
        settings = read_json(folder / "config.json")
        quiet = {"hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate"} & set(settings)
        write_json(folder / "config.json", {**settings, **dict.fromkeys(quiet, 0.0)})
        return str(folder)

    return make


def test_a_command_in_two_processes_does_what_it_does_in_one(
    launch, tune_reviews, reviews, still, folders, answers, command, tmp_path
):
    """One that classifies, one from text to text; then again, finished, resumed elsewhere, refused and failing."""
    steady = [*tune_reviews, "--train.steps", "4", "--train.save_every", "1", "--train.eval_every", "2", "--train.snapshots", "2"]
    steady += ["--max_dev", "4", "--max_test", "2"]
    head = [
        *steady,
        "--delta",
        "LoRA",
        "--train.accumulation",
        "2",
        "--train.batch_size",
        "5",
        "--model",
        still(reviews.with_name("model")),
    ]
    text = [*steady, "--model", still(folders["t5-text"]), "--task", str(answers), "--delta", "Houlsby", "--delta.width", "3"]
    text += ["--train.token_budget", "60"]
    for name, words in (("head", head), ("text", text)):
        command(*words, "--out_dir", tmp_path / "one" / name)
    two = tmp_path / "two"
    commands = [
        [*head, "--out_dir", str(two / "head")],
        [*text, "--out_dir", str(two / "text")],
        [*head, "--out_dir", str(two / "head")],
        [*head, "--out_dir", str(two / "head"), "--init_seed", "3"],
        [*head, "--out_dir", str(two / "bad"), "--lr", "1e30", "--train.optimizer.max_grad_norm", "null"],
        [*head, "--out_dir", str(two / "none"), "--model", str(two)],
    ]
    codes, said = launch(json.dumps(commands))
    assert codes == [0, 0], said
    for name in ("head", "text"):
        for part in ("delta", "snapshots/2"):
            assert differences(two / name / part, tmp_path / "one" / name / part) <= 1e-6
        one, other = (read_json(folder / name / "run.json") for folder in (tmp_path / "one", two))
        assert {key: value for key, value in one["config"].items() if key != "threads"} == other["config"]
        assert other["status"] == "finished"
        for record, twin in zip(*(read_records(folder / name) for folder in (tmp_path / "one", two)), strict=True):
            assert record["value"] == pytest.approx(twin["value"], abs=1e-5)
    (printed, complained), (follower_printed, follower_complained) = said
    assert printed.endswith("[0, 0, 0, 2, 2, 2]")
    assert printed.count("kept: step") == 3
    assert follower_printed == "[0, 0, 0, 2, 2, 2]"
    assert [line for line in follower_complained.splitlines() if "deltatune" in line] == []
    refusals = [line for line in complained.splitlines() if "error:" in line]
    for text, line in zip(("holds another run", "lower optimizer.lr", "no config.json"), refusals, strict=True):
        assert text in line
    assert sorted(path.name for path in two.iterdir()) == ["bad", "head", "text"]


if __name__ == "__main__":
    result = [cli.main(words) for words in json.loads(sys.argv[1])] if sys.argv[1:] else train()
    sys.stdout.write(json.dumps(result))
    leave(0)
