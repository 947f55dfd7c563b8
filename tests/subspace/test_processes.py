"""Approximation in two processes, projections divided or not, ends as in one; run as a program, this file is one of them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from deltatune.core import train
from deltatune.core.files import read_json
from deltatune.core.processes import leave
from deltatune.core.shards import Divided
from deltatune.subspace import cli, stage1
from deltatune.subspace.approximation import Approximation
from deltatune.subspace.draws import Drawn
from deltatune.subspace.space import read

STEPS = ["--train.steps", "4", "--train.eval_every", "2", "--train.batch_size", "5", "--mixtures", "0", "--device", "cpu"]
STEPS += ["--train.save_every", "1", "--dev_lines", "4", "--k", "2"]
FIRST, BOTH = ["--objective.draw", "batch"], ["--objective.draw", "example", "--train.token_budget", "60"]


@pytest.fixture(scope="module")
def still(bench, tmp_path_factory):
    """The model of the solutions without dropout, whose noise is another in every process."""
    folder = shutil.copytree(bench / "model", tmp_path_factory.mktemp("still") / "model")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    assert quiet.keys() <= settings.keys()
    (folder / "config.json").write_text(json.dumps(settings | quiet), encoding="utf-8")
    return folder


VARIANTS = {
    "adafactor": [*FIRST, "--train.optimizer.scale_parameter", "true", "--train.optimizer.max_grad_norm", "0.5", "--lr", "0.1"],
    "adamw": [*BOTH, "--train.optimizer.name", "adamw", "--train.optimizer.max_grad_norm", "0.5"],
    "undivided": [*BOTH, "--shard", "false"],
}


def launch(commands):
    """This file as two processes that run the commands one after another; exit codes of the processes, what each says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(commands)],
            env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=500)[1] for process in running]
    return [process.returncode for process in running], said


@pytest.fixture(scope="module")
def together(bench, still, tmp_path_factory):
    """A folder of what two processes leave, VARIANT/RUN: whole, cut (and gone on with), left; and the options of each variant."""
    folder, commands, options = tmp_path_factory.mktemp("together"), [], {}
    for variant, own in VARIANTS.items():
        words = [
            "approximate",
            "--init",
            bench / "init",
            "--solutions",
            f"[{bench / 'original'}]",
            *STEPS,
            "--model",
            still,
            *own,
        ]
        words += ["--tasks", f"[{bench / 'first.yaml'}]"] if own[:2] == FIRST else []
        options[variant] = list(map(str, words))
        for run, failing in (("whole", False), ("cut", True), ("left", True), ("cut", False)):
            commands.append([failing, [*options[variant], "--out_dir", str(folder / variant / run)]])
    codes, said = launch(commands)
    assert codes == [0, 0], said
    return folder, options


def assert_equal(one, two, **tolerance):
    one, two = read(one), read(two)
    for name, own in one.projections.items():
        for field, tensor in own.tensors().items():
            torch.testing.assert_close(two.projections[name].tensors()[field], tensor, **tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_learn_the_subspace_of_one_and_resume_exactly(together, command, refused, tmp_path, variant):
    folder, words = together[0] / variant, together[1][variant]
    command(*words, "--out_dir", tmp_path)
    assert_equal(tmp_path, folder / "whole", atol=1e-5, rtol=1e-5)
    assert_equal(folder / "whole", folder / "cut", atol=0, rtol=0)
    one, two = (read_json(path / "run.json") for path in (tmp_path, folder / "whole"))
    for name in ("config_digest", "sizes", "trainable"):
        assert one[name] == two[name]
    assert one["final_loss"] == pytest.approx(two["final_loss"], rel=1e-5)
    left, again = folder / "left", [*words, "--out_dir", folder / "left"]
    state = sorted(path.name for path in (left / "state").iterdir())
    if variant == "undivided":
        assert state == ["state.pt"]  # whatever the number of processes
    else:
        assert state == ["state-2-0-of-2.pt", "state-2-1-of-2.pt"]
        torch.save({}, left / "state/state-3-0-of-2.pt")  # killed before the other process had saved: not a state
        assert f"{left}/state: 2 processes saved it, each its part of what is trained, and now each holds all" in refused(*again)
        (left / "state/state-2-1-of-2.pt").unlink()
    command(*again)
    assert_equal(tmp_path, left, atol=1e-5, rtol=1e-5)


def test_a_draw_that_holds_examples_of_several_tasks_is_the_mean_of_its_parts(published):
    """Answers differ in length, so a mean over tokens would depend on which process passes which example."""
    lengths = (published.batch["labels"] != -100).sum(dim=1)
    assert len(set(lengths.tolist())) > 1
    model = published.approximation(3, "example")
    shares = [0.5, 0.3, 0.2]

    def loss(rows):
        batch = {name: tensor[rows] for name, tensor in published.batch.items()}
        about = {"task": [1] * len(rows), "solution": [[0] * 3] * len(rows), "draw": [0] * len(rows)}
        made = {name: torch.tensor(value) for name, value in about.items()}
        return model.loss({**batch, **made, "shares": torch.tensor(shares).expand(len(rows), 3, 3)})

    torch.testing.assert_close(loss([0, 1, 2]), (2 * loss([0, 1]) + loss([2])) / 3)


def test_only_of_one_task_a_batch_is_a_mean_over_tokens(bench, command, tmp_path, monkeypatch):
    seen, plain = [], Approximation.__init__

    def note(self, space, tuned, sources, by_tokens):
        seen.append((len(sources.names), by_tokens))
        plain(self, space, tuned, sources, by_tokens)

    monkeypatch.setattr(Approximation, "__init__", note)
    words = ["approximate", "--init", bench / "init", "--solutions", f"[{bench / 'original'}]", *STEPS]
    command(*words, *FIRST, "--tasks", f"[{bench / 'first.yaml'}]", "--out_dir", tmp_path / "one")
    command(*words, *FIRST, "--out_dir", tmp_path / "two")
    command(*words, "--out_dir", tmp_path / "auto")
    assert seen == [(1, True), (2, False), (2, False)]


def watch():
    """Let every process of the launch check that it holds its part alone, and the optimizer's state of that."""
    plain, build, optimizers = stage1.fit, train.build_optimizer, []
    train.build_optimizer = lambda *given: optimizers.append(build(*given)) or optimizers[-1]

    def fit(loss, params, *given, **named):
        history = plain(loss, params, *given, **named)
        assert isinstance(params, Divided) == ("undivided" not in str(named["hooks"].state_dir))
        for name, tensor in params.items():
            delta, field = name.split(".")
            size = own = len(loss.__self__.space.starts[delta])
            if isinstance(params, Divided):
                own = (size + (os.environ["RANK"] == "0")) // 2
            shape = {"encoder_weight": (2, own), "decoder_weight": (own, 2), "encoder_low_weight": (2, 2)}.get(field, (2,))
            for held in (tensor, history.selected[name]):
                assert (tuple(held.shape), held.untyped_storage().nbytes()) == (shape, 4 * held.numel()), name
            state = {key: tuple(value.shape) for key, value in optimizers[-1].state[tensor].items() if key != "step"}
            moments = {"rows": shape[:1], "columns": shape[1:]} if len(shape) == 2 else {"whole": shape}
            adamw = isinstance(optimizers[-1], torch.optim.AdamW)
            assert state == (dict.fromkeys(("exp_avg", "exp_avg_sq"), shape) if adamw else moments), name
            assert tensor.grad is None
        return history

    stage1.fit = fit


def main(commands):
    """Run the commands, pairs of whether it is to fail before its third update and its words; 1 if one does something else."""
    watch()
    plain = Drawn.micro_batches

    def gone(self, step, *given):
        if step == 2:
            raise OSError(5, "gone")
        return plain(self, step, *given)

    for failing, words in commands:
        Drawn.micro_batches = gone if failing else plain
        if bool(cli.main(words)) != failing:
            return 1
    return 0


if __name__ == "__main__":
    leave(main(json.loads(sys.argv[1])))
