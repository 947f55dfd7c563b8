"""Approximation in two processes ends as in one; run as a program, this file is one of them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from deltatune.core.files import read_json
from deltatune.core.processes import leave
from deltatune.subspace import cli
from deltatune.subspace.space import read

STEPS = ["--train.steps", "3", "--train.eval_every", "3", "--train.batch_size", "4", "--mixtures", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def still(bench, tmp_path_factory):
    """The model of the solutions without dropout, whose noise is another in every process."""
    folder = shutil.copytree(bench / "model", tmp_path_factory.mktemp("still") / "model")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    assert quiet.keys() <= settings.keys()
    (folder / "config.json").write_text(json.dumps(settings | quiet), encoding="utf-8")
    return folder


@pytest.mark.parametrize("draw", ["batch", "example"])
def test_two_processes_learn_the_subspace_of_one(bench, still, command, tmp_path, draw):
    words = ["approximate", "--init", bench / "init", "--solutions", f"[{bench / 'original'}]", "--k", 2, *STEPS]
    words += ["--model", still, "--objective.draw", draw, *(["--tasks", f"[{bench / 'first.yaml'}]"] if draw == "batch" else [])]
    command(*words, "--out_dir", tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, *map(str, [*words, "--out_dir", tmp_path / "two"])],
            env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    for name, own in one.projections.items():
        for field, tensor in own.tensors().items():
            torch.testing.assert_close(two.projections[name].tensors()[field], tensor, atol=1e-5, rtol=1e-4)
    facts = [read_json(tmp_path / each / "run.json") for each in ("one", "two")]
    assert facts[0]["config_digest"] == facts[1]["config_digest"]
    assert facts[0]["final_loss"] == pytest.approx(facts[1]["final_loss"], rel=1e-4)


if __name__ == "__main__":
    leave(cli.main(sys.argv[1:]))
