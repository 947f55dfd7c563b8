"""Distillation, projection, paths and addition against the reference vectors of the paper."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import RobertaConfig, RobertaForSequenceClassification

from deltatune.core.backbone import wrap
from deltatune.core.delta import Full, attach
from deltatune.core.groups import gaps
from deltatune.core.paths import End, grid, walk
from deltatune.core.probes import with_states
from deltatune.core.weights import flatten
from deltatune.recyclable.distill import Distillation, Side, first_positions, logit_loss, patience_loss, total_loss
from deltatune.recyclable.paths import Point, best, table
from deltatune.recyclable.projection import Projection, project
from deltatune.recyclable.recycle import Recycling, moved

INTEGER_BUFFER = "roberta.embeddings.position_ids"
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tensors(state):
    return {name: torch.tensor(values) for name, values in state.items() if name != INTEGER_BUFFER}


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual.detach().double(), torch.as_tensor(expected).double(), atol=tolerance, rtol=tolerance)


def relative(value, tolerance=1e-5):
    """The vectors' own measure: |a - b| <= tolerance * (1 + |b|)."""
    return pytest.approx(value, abs=tolerance * (1 + abs(value)))


def settings(case):
    """The published -1 switches the layer-wise term off, as 0 does here."""
    return Distillation(alpha=case["alpha"], beta=max(0.0, case["beta"]), temperature=case["T"])


@pytest.mark.parametrize("index", range(7))
def test_distillation_losses_and_gradients(golden, index):
    case = golden.case("recyclable", "kd_loss.json", "cases")[index]
    student = torch.tensor(case["student_logits"], requires_grad=True)
    teacher = torch.tensor(case["teacher_logits"], requires_grad=True)
    hidden = [torch.tensor(layer, requires_grad=True) for layer in case["student_hidden"]]
    taught = [torch.tensor(layer, requires_grad=True) for layer in case["teacher_hidden"]]
    config, expected = settings(case), case["out"]
    task_loss = cross_entropy(student, torch.tensor(case["labels"]))
    assert float(task_loss.detach()) == relative(expected["ce"])
    assert logit_loss(student, teacher, config.temperature).item() == relative(expected["kd"])
    ends = [first_positions(states) for states in (hidden, taught)]
    if "patience_fp32" in expected:
        assert patience_loss(*ends).item() == relative(expected["patience_fp32"])
        assert 2 * patience_loss(*ends).item() == relative(expected["cls_mse_fp32"])
    loss = total_loss(task_loss, Side(student, ends[0]), Side(teacher, ends[1]), config)
    assert loss.item() == relative(expected["total_without_half_cast"])
    loss.backward()
    close(student.grad, expected["grad_student_logits"])
    for layer, gradient in zip(hidden, expected["grad_student_hidden"] or [None] * len(hidden), strict=True):
        if gradient is None or config.beta == 0:
            assert layer.grad is None or not layer.grad.any()
        else:
            close(layer.grad, gradient)
    assert teacher.grad is None
    assert all(layer.grad is None for layer in taught)


def test_the_published_reduction_is_the_usual_divergence_divided_by_the_number_of_classes(golden):
    case = golden.case("recyclable", "kd_loss.json", "cases")[0]
    ends = [torch.tensor(case[side]) for side in ("student_logits", "teacher_logits")]
    usual = logit_loss(*ends, 5.0, "batch_mean")
    torch.testing.assert_close(usual / ends[0].shape[1], logit_loss(*ends, 5.0))


def test_distillation_of_whole_models(golden):
    entry = golden("recyclable", "kd_end_to_end.json")

    def model(state):
        built = RobertaForSequenceClassification(RobertaConfig(**NO_DROPOUT, **entry["config"]))
        built.load_state_dict(tensors(state))
        return attach(wrap(built), Full())

    student, teacher = model(entry["student"]), model(entry["teacher"])
    batch = {name: torch.tensor(entry[name]) for name in ("input_ids", "attention_mask")}
    for case in entry["cases"]:
        student.zero_grad()
        logits, states = with_states(student, batch)
        with torch.no_grad():
            told, taught = with_states(teacher, batch)
        sides = [Side(z, first_positions(s)) for z, s in ((logits, states), (told, taught))]
        loss = total_loss(cross_entropy(logits, torch.tensor(entry["labels"])), *sides, settings(case))
        assert float(loss.detach()) == relative(case["total"], 1e-3 if case["beta"] != -1 else 1e-5)
        loss.backward()
        for name, gradient in case["grads"].items():
            close(student.parameters_by_name()[name].grad, gradient, 2e-3)


def test_projection_of_adapters_and_head(golden):
    entry = golden("recyclable", "projection.json")
    assert list(entry["teacher"]) == entry["flatten_order"] == list(entry["student_before"])
    teacher, source, before = (tensors(entry[name]) for name in ("teacher", "eval_source", "student_before"))
    map_ = Projection(*(torch.tensor(entry[name]) for name in ("W1", "W2", "bias")))
    assert map_.down.shape == (flatten(before).numel(), entry["rank"])
    for share, weights, expected in ((1.0, teacher, "train_x1"), (0.25, teacher, "train_x025"), (1.0, source, "eval")):
        found = project(map_, weights, share)
        for name, values in entry[expected].items():
            close(found[name], values)


def test_the_table_of_a_path(golden):
    entry = golden("recyclable", "interpolation_csv.json")
    points = [Point(*call) for call in entry["calls_x_devperf_devloss_testperf_testloss"]]
    assert table(points) == entry["file_text"]
    # The published program read its rounded best back (D22); the choice is the same, in full precision.
    for number, returned in enumerate(entry["returned"], start=1):
        found = best(points[:number])
        assert [round(value, 4) for value in found.numbers()] == [round(v, 4) for v in returned["best_config"][2:]]
        assert found in points
    assert [row["x"] for row in csv.DictReader(io.StringIO(entry["file_text"]))] == ["0.0000", "0.0400", "0.0800", "0.1200"]


def test_a_walk_between_two_models_holds_the_published_points(golden):
    """The vector has a few tensors of a classifier, which stand here as modules with those names."""
    entry = golden("recyclable", "interpolation.json")
    ends = [tensors(entry[name]) for name in ("model1", "model2")]
    model = RobertaForSequenceClassification(
        RobertaConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=6, num_labels=3)
    )
    model.load_state_dict(ends[0], strict=False)
    tuned = attach(wrap(model), Full())
    rest = {name: p.detach().clone() for name, p in tuned.parameters_by_name().items()}
    assert set(ends[0]) < set(rest)
    places, start = grid(26), tuned.weights()
    assert places == pytest.approx(entry["grid"])

    def measure():
        return {"held": {name: p.detach().clone() for name, p in tuned.parameters_by_name().items()}}

    found = list(walk(tuned, [End({**rest, **end}) for end in ends], places, measure))
    for point in entry["points"]:
        for name, value in tensors(point["after_load"]).items():
            close(found[point["grid_index"]]["held"][name], value, 1e-6)
    assert all(torch.equal(start[name], value) for name, value in tuned.weights().items())


def test_a_fine_tuned_model_moves_to_another_base(golden):
    entry = golden("recyclable", "delta_apply.json")
    old, tuned, new = (tensors(entry[name]) for name in ("theta_old", "theta_tuned", "theta_new"))
    head = [name for name in new if "classifier" in name]
    for how, key in ((Recycling(), "direct_apply_result"), (Recycling("arithmetic"), "old_init_as_run")):
        found = moved(old, tuned, new, head, how)
        for name, values in tensors(entry[key]).items():
            close(found[name], values, 1e-6)
    fresh = moved(old, tuned, new, head, Recycling("fresh", 0.0))
    assert all(torch.equal(fresh[name], new[name]) for name in new)


def test_distances_of_models_and_adapters(golden):
    entry = golden("recyclable", "cal_dist.json")
    ends = [{n: w for n, w in tensors(entry["finetune"][side]).items() if "class" not in n} for side in ("theta1", "theta2")]
    [gap] = gaps(*ends, lambda name: "all")
    expected = entry["finetune"]["independent_without_integer_buffers"]
    assert (gap.l2, gap.rms, gap.cosine) == tuple(relative(expected[key]) for key in ("L2", "average", "cosine"))
    assert gap.scalars == expected["n"]
    adapters = [
        {n: w for n, w in tensors(entry["adapter"][side]).items() if "adapter" in n}
        for side in ("adapter_ckpt1", "adapter_ckpt2")
    ]
    [gap] = gaps(*adapters, lambda name: "all")
    expected = entry["adapter"]["independent_adapter_keys_only"]
    assert (gap.l2, gap.scalars) == (relative(expected["L2"]), expected["n"])
