"""Demonstrations in tuning and scoring: the tokens of the published program, means over contexts, sentence vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from deltatune.combos.contexts import ContextFormat, Demonstrations
from deltatune.combos.sentences import Vectors, about_folder, write_vectors
from deltatune.core import cli as core
from deltatune.core.data import Example, builtin_task, load_task
from deltatune.core.data.task import build_task
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.formats import PromptFormat

GOLDEN = Path(__file__).parents[1] / "golden" / "combos"
D = ("combos", "demonstrations.json")


def asked(task, length, **options):
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizer")
    return ContextFormat(PromptFormat(task, tokenizer, length), Demonstrations(**options))


@pytest.mark.golden(*D, "processors.json")
@pytest.mark.parametrize("number", [0, 2, 4, 5])
def test_contexts_of_every_query_are_those_of_the_published_program(golden, tmp_path, number):
    case = golden.case(*D, "demonstrations")[number]
    name, options = case["task"], case["options"]
    config = builtin_task(name if name == "sst-5" else f"glue/{name}")
    limits = {"first_sentence_limit": options.get("first_sent_limit"), "other_sentence_limit": options.get("other_sent_limit")}
    folder = tmp_path / config.folders[0]
    folder.mkdir()
    for file, content in golden("combos", "processors.json")["files"][name].items():
        (folder / file).write_bytes(content.encode("utf-8"))
    task = load_task(replace(config, **limits), tmp_path)
    length = options.get("max_seq_length", 512) * (2 if options.get("double_demo") else 1)
    count = options.get("gpt3_in_context_num")
    how = {"place": "head", "count": count} if count else {}
    form = asked(task, length, contexts=case["num_sample"], seed=case["seed"], **how)
    features = form.features(task.dev)
    width = len(features)
    assert case["size"] == width * case["num_sample"]
    batch = form.collate(features)
    for row, feature in enumerate(case["features"]):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        assert ids == feature["input_ids"]
        assert case["example_idx"][row][0] == row % width
    assert len(batch["labels"]) == width


@pytest.fixture(scope="module")
def six():
    """A task of six short examples."""
    texts = ("he left", "he went", "one film", "a fine film", "it was bad", "no one left")
    examples = [Example((text,), str(number % 2), id=f"train-{number}") for number, text in enumerate(texts)]
    return build_task(builtin_task("glue/sst-2"), examples, [Example(("a bad film",), "0", id="dev-0")], ())


def test_logits_are_means_over_contexts_and_losses_are_theirs(six):
    form = asked(six, 64, contexts=3)
    batch = form.collate(form.features(six.train[:2]))
    logits = torch.randn(6, 600, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([logits[:2], logits[2:4], logits[4:]]).mean(dim=0)[:, form.words]
    assert form.predict(logits) == mean.argmax(dim=1).tolist()
    assert form.loss(logits, batch).item() == pytest.approx(torch.nn.functional.cross_entropy(mean, batch["labels"]).item())


def test_training_draws_anew_and_never_shows_the_query_itself(six):
    form = asked(six, 64)
    feature = form.features(six.train)[0]
    assert feature["candidates"] == [1, 2, 3, 4, 5]
    drawn = [form.choose(feature, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert len({tuple(one["input_ids"]) for one in drawn}) > 2
    assert drawn[3] == form.choose(feature, torch.Generator().manual_seed(3))
    assert all(one["ends"] == [len(one["input_ids"])] for one in drawn)
    assert form.collate(drawn)["input_ids"].shape[0] == 8


def test_templates_take_turns_d18(six):
    texts = ("*cls**sent_0*_It_was*mask*.*sep+*", "*cls*_So*mask*,*+sent_0**sep+*")
    form = asked(six, 64, contexts=2, templates=texts)
    one, other = ({**form.features(six.dev)[0]} for _ in range(2))
    first = one["input_ids"][: one["ends"][0]]
    second = one["input_ids"][one["ends"][0] :]
    assert one["input_ids"] == other["input_ids"]
    mask = form.tokenizer.mask_token_id
    assert first.index(mask) > second.index(mask)


@pytest.mark.parametrize("how", [{}, {"place": "tail", "count": 4}])
def test_labels_can_be_mixed_up_as_a_control(six, how):
    own, mixed = (asked(six, 64, contexts=8, labels=labels, **how).features(six.dev)[0] for labels in ("own", "mixed"))
    assert own["input_ids"] != mixed["input_ids"]
    if not how:
        assert sorted(own["input_ids"][: own["ends"][0]]) == sorted(mixed["input_ids"][: mixed["ends"][0]])


def test_only_what_is_like_the_query_is_shown(six, tmp_path):
    angles = [0.0, 0.1, 0.2, 0.3, 1.0, 1.1]
    found = np.array([[np.cos(angle), np.sin(angle)] for angle in [*angles, 0.0]], dtype=np.float32)
    texts = [" ".join(example.texts) for example in (*six.train, *six.dev)]
    write_vectors(tmp_path / "all.safetensors", texts, found, {"encoder": "e", "split": "all"})
    form = asked(six, 64, contexts=1, vectors=tmp_path, rate=0.7)
    assert form.candidates(six.dev[0]) == [0, 1, 2, 3]  # two of each class: int((6 // 2) * 0.7)
    assert Demonstrations.of(form.how.settings()) == form.how
    write_vectors(tmp_path / "all.safetensors", texts, found, {"encoder": "f", "split": "all"})
    with pytest.raises(DeltatuneError, match="not those that the run was tuned with"):
        Demonstrations.of({**form.how.settings(), "vectors": {"encoder": "e", "folder": str(tmp_path)}})
    with pytest.raises(DeltatuneError, match="example x has no sentence vector"):
        Vectors.read(tmp_path).of(Example(("new",), "0", id="x"))


def test_a_run_with_demonstrations(few, task, command, refused, capsys, tmp_path):
    words = ["--task", task, "--encoder", task.with_name("model"), "--device", "cpu", "--out_dir", tmp_path / "vectors"]
    said = command("embed", *words)
    assert "train 24, dev 8, test 9" in said
    first = about_folder(tmp_path / "vectors")
    (tmp_path / "vectors/dev.safetensors").unlink()
    command("embed", *words, "--overwrite")
    assert about_folder(tmp_path / "vectors") == first  # the encoder has no pooler of its own: it gets other values each time
    demos = ["--form", "prompt-demo", "--demos.contexts", 2, "--demos.vectors", tmp_path / "vectors", "--seed", 3]
    command("run", "--methods", "prompt+bias", *few, *demos, "--out_dir", tmp_path / "run")
    facts = read_json(tmp_path / "run/run.json")
    shown = facts["config"]["method"]["demonstrations"]
    assert (shown["contexts"], shown["seed"], shown["vectors"]["max_length"]) == (2, 3, "256")
    assert facts["found"]["train"]["n"] == 24
    assert core.main(["evaluate", "--run", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "asked in a form of deltatune.combos" in capsys.readouterr().err
    command("run", "--methods", "none", *few, *demos, "--out_dir", tmp_path / "zero")
    assert "--demos acts with --form prompt-demo alone" in refused(
        "run", "--methods", "bias", *few, "--demos.contexts", 2, "--out_dir", tmp_path / "no"
    )
