"""Several points of a delta path in one forward pass have the scores that they have one after the other."""

from __future__ import annotations

import pytest
import torch

from deltatune.core.backbone import BackboneConfig
from deltatune.core.data import load_task
from deltatune.core.delta import Houlsby, LoRA, Prefix, SoftPrompt, attach
from deltatune.core.errors import DeltatuneError
from deltatune.core.evaluation import evaluate, evaluate_many
from deltatune.core.formats import TextFormat, build_format
from deltatune.core.loading import load_backbone
from deltatune.core.run import read_records
from deltatune.modeconn import sweeps

DELTAS = {"lora": LoRA(rank=2), "adapter": Houlsby(width=4), "prefix": Prefix(length=3, width=4), "prompt": SoftPrompt(length=2)}


@pytest.mark.parametrize("form", ["head", "prompt"])
@pytest.mark.parametrize("kind", DELTAS)
def test_the_scores_are_those_of_one_point_after_the_other(bench, kind, form):
    task = load_task(str(bench / "task.yaml"), bench)
    backbone = load_backbone(BackboneConfig(str(bench / "model"), form=form, device="cpu"), num_labels=2)
    tuned = attach(backbone, DELTAS[kind])
    asked = build_format(backbone, task, 256, [DELTAS[kind]])
    draw, before = torch.Generator().manual_seed(0), tuned.weights()
    points = [{n: w + 0.3 * torch.randn(w.shape, generator=draw) for n, w in before.items()} for _ in range(3)]
    together = evaluate_many(tuned.train(), asked, task.dev, points)
    assert tuned.training
    assert all(torch.equal(value, before[name]) for name, value in tuned.weights().items())
    for point, found in zip(points, together, strict=True):
        tuned.load(point)
        alone = evaluate(tuned, asked, task.dev)
        assert (found.predictions, found.per_example, found.value) == (alone.predictions, alone.per_example, alone.value)
        assert found.loss == pytest.approx(alone.loss, rel=1e-5)
    assert len({found.loss for found in together}) == 3
    tuned.detach()


def test_generated_texts_are_scored_one_point_after_the_other(bench):
    task = load_task(str(bench / "task.yaml"), bench)
    backbone = load_backbone(BackboneConfig(str(bench / "model"), device="cpu"), num_labels=2)
    tuned = attach(backbone, LoRA(rank=2))
    with pytest.raises(DeltatuneError, match="one set of weights at a time"):
        evaluate_many(tuned, TextFormat(task, backbone.tokenizer, 64), task.dev, [tuned.weights()])


def test_a_walk_is_the_same_in_either_way(bench, command, tmp_path, monkeypatch):
    ends = ("--left", bench / "runs/lora-0", "--right", bench / "runs/lora-1", "--device", "cpu", "--points", 5, "--max_dev", 8)
    found, passes = {}, []
    plain = sweeps.evaluate_many
    monkeypatch.setattr(sweeps, "evaluate_many", lambda *args: passes.append(len(args[3])) or plain(*args))
    for name, tokens in (("turn", 0), ("together", 10_000)):
        monkeypatch.setattr(sweeps, "MOST_TOKENS", tokens)
        command("walk", *ends, "--out_dir", tmp_path / name)
        found[name] = read_records(tmp_path / name)
    assert passes == [5, 5]  # dev and test
    assert len(found["turn"]) == len(found["together"]) == 10
    for one, other in zip(found["turn"], found["together"], strict=True):
        assert one == {**other, "loss": pytest.approx(other["loss"], rel=1e-5)}


def test_only_few_short_examples_of_deltas_go_together(bench):
    from deltatune.modeconn.endpoints import open_end
    from deltatune.modeconn.scenes import Where, scene, tasks_of

    sizes = {}
    for kind in ("lora", "full"):
        runs = [open_end(bench / f"runs/{kind}-{n}") for n in (0, 1)]
        [(choice, own)] = tasks_of(runs, (), None)
        stage = scene(runs, choice, own, Where((None, None), "cpu", False))
        sizes[kind] = [sweeps.at_once(stage, stage.ends, {"dev": [{"input_ids": [0] * length}] * 16}) for length in (2, 4, 5)]
    assert sizes == {"lora": [16, 8, 1], "full": [1, 1, 1]}
