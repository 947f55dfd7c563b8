"""Every command from end to end on a tiny model that fills in a word."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from deltatune.core import checkpoint
from deltatune.core.files import read_json
from deltatune.core.optim import OptimizerConfig, build_optimizer
from deltatune.core.reuse import open_run
from deltatune.core.run import read_records
from deltatune.core.weights import flatten
from deltatune.subspace.approximation import Approximation
from deltatune.subspace.projections import draw, named, parameter_count
from deltatune.subspace.space import read, save
from deltatune.subspace.stage2 import _rank

NAMES = ["houlsby", "lora", "prefix"]
SHORT = ["--train.steps", 2, "--train.eval_every", 1, "--train.batch_size", 4, "--device", "cpu"]


def test_initial_values_and_solutions(bench, command):
    sizes = read_json(bench / "init/run.json")["sizes"]
    assert list(sizes) == NAMES
    for name in NAMES:
        initial = checkpoint.read(bench / "init" / name)
        assert not initial.head
        assert sum(tensor.numel() for tensor in initial.weights.values()) == sizes[name]
        run = open_run(bench / "original/first" / name)
        assert read_json(run.folder / "run.json")["start"]["digest"] == initial.digest
        assert float(flatten(run.saved.weights).dist(flatten(initial.weights))) > 0
    again = command("train-delta", "--config", bench / "original/first/lora/config.yaml")
    rows = [line.split()[1:4:2] for line in again.splitlines() if line.startswith("│")]
    assert rows == [[task, name] for task in ("first", "second") for name in NAMES]
    assert f"second: {bench / 'original/second'}\n" in again


def test_a_subspace_holds_what_decoding_needs(bench, tmp_path):
    space = read(bench / "space")
    assert (space.names, space.k) == (tuple(NAMES), 3)
    assert {task: tuple(points.shape) for task, points in space.points.items()} == {str(bench / "first.yaml"): (1, 3, 3)}
    for name in NAMES:
        zero = space.decode(name, torch.zeros(3))
        assert all(torch.equal(zero[key], value) for key, value in checkpoint.read(bench / "init" / name).weights.items())
    run = {name: open_run(bench / "original/first" / name).saved.weights for name in NAMES}
    torch.testing.assert_close(space.encode(run), space.points[str(bench / "first.yaml")][0])
    save(tmp_path / "copy", space)
    copy = read(tmp_path / "copy")
    assert copy.digest == space.digest
    random = space.with_random_decoders(1)
    for name in NAMES:
        columns = [each.projections[name].decoder_weight.norm(dim=0) for each in (space, random)]
        torch.testing.assert_close(*columns)
    records = read_records(bench / "space")
    places = {record["place"] for record in records if record["kind"] == "point"}
    assert places == {*NAMES, "centroid", "mixture-0", "mixture-1"}


def test_of_a_decoded_delta_some_tensors_alone(bench):
    space = read(bench / "space")
    first, *others = space.inits["lora"]
    alone, whole = (each.decode("lora", torch.ones(3)) for each in (space.only({"lora": [first]}), space))
    assert torch.equal(alone[first], whole[first])
    assert not torch.equal(alone[first], space.inits["lora"][first])
    assert others
    assert all(torch.equal(alone[name], space.inits["lora"][name]) for name in others)


def test_the_control_of_the_head_alone(bench, command, tmp_path):
    task = f"[{bench / 'first.yaml'}]"
    command("make-init", "--model", bench / "model", "--form", "head", "--deltas+", "LoRA", "--out_dir", tmp_path / "init")
    short = [*SHORT[2:], "--train.steps", 1, "--data_dir", bench]
    words = ["train-delta", "--init", tmp_path / "init", "--tasks", task, *short, "--out_dir", tmp_path / "original"]
    command(*words)
    words = ["approximate", "--init", tmp_path / "init", "--solutions", f"[{tmp_path / 'original'}]", *short, "--k", 2]
    command(*words, "--out_dir", tmp_path / "space")
    words = ["optimize", "--subspace", tmp_path / "space", "--tasks", task, *short, "--lrs", "[0.05]", "--controls", "[head]"]
    command(*words, "--out_dir", tmp_path / "out")
    found = [record for record in read_records(tmp_path / "out") if record["split"] == "test"]
    assert [(record["kind"], record["source"], record["target"]) for record in found] == [
        ("optimization", "lora", "lora"), ("head optimization", "lora", "lora"),
    ]  # fmt: skip
    shown = command("report", "--results", f"[{tmp_path / 'out'}]", "--out_dir", tmp_path / "report")
    assert "control: the head of the optimized solution" in shown


def test_approximation_goes_on_and_does_nothing_twice(bench, command, tmp_path):
    words = ["approximate", "--init", bench / "init", "--solutions", f"[{bench / 'original'}]", "--k", 2, *SHORT]
    shown = command(*words, "--out_dir", tmp_path / "both", "--objective.draw", "task", "--objective.mixing", "dirichlet")
    assert "as houlsby" in shown
    space = read(tmp_path / "both")
    assert len(space.points) == 2
    again = command(*words, "--out_dir", tmp_path / "both", "--objective.draw", "task", "--objective.mixing", "dirichlet")
    assert "finished already" in again


def test_an_interrupted_approximation_ends_as_one_never_interrupted(bench, command, refused, tmp_path, monkeypatch):
    words = ["approximate", "--init", bench / "init", "--solutions", f"[{bench / 'original'}]", "--k", 2, *SHORT[2:]]
    words += ["--train.steps", 4, "--train.save_every", 1, "--mixtures", 0]
    command(*words, "--out_dir", tmp_path / "whole")
    plain, calls = Approximation.loss, []

    def fail(self, batch):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(5, "gone")
        return plain(self, batch)

    monkeypatch.setattr(Approximation, "loss", fail)
    assert "gone" in refused(*words, "--out_dir", tmp_path / "cut")
    monkeypatch.setattr(Approximation, "loss", plain)
    command(*words, "--out_dir", tmp_path / "cut")
    whole, cut = (read(tmp_path / name) for name in ("whole", "cut"))
    for name, own in whole.projections.items():
        assert all(torch.equal(cut.projections[name].tensors()[field], tensor) for field, tensor in own.tensors().items())


def test_projections_in_bf16_are_trained_and_kept_so(bench, command, tmp_path):
    words = ["approximate", "--init", bench / "init", "--solutions", f"[{bench / 'original'}]", "--k", 2, *SHORT]
    command(*words, "--tasks", f"[{bench / 'first.yaml'}]", "--dtype", "bf16", "--lr", 0.01, "--out_dir", tmp_path / "half")
    space, generator = read(tmp_path / "half"), torch.Generator().manual_seed(0)
    for name, own in space.projections.items():
        start = draw(own.size, 2, generator, dtype=torch.bfloat16)
        for field, tensor in own.tensors().items():
            assert tensor.dtype == torch.bfloat16
            assert not torch.equal(tensor, start.tensors()[field]), f"{name}.{field}"
        assert all(tensor.dtype == torch.float32 for tensor in space.decode(name, torch.ones(2)).values())


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_memory_of_projections_their_gradients_and_the_optimizer(dtype, width):
    tensors = named({"lora": draw(20_000, 100, torch.Generator().manual_seed(0), dtype=dtype)})
    for tensor in tensors.values():
        tensor.requires_grad_(True)
        tensor.grad = torch.ones_like(tensor)
    optimizer = build_optimizer(tensors, OptimizerConfig("adafactor", lr=1e-4))
    optimizer.step()
    held = parameter_count(20_000, 100) * width
    assert sum(tensor.nbytes for tensor in tensors.values()) == held
    assert sum(tensor.grad.nbytes for tensor in tensors.values()) == held
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert 0 < sum(value.nbytes for value in kept) < 0.03 * held


@pytest.fixture(scope="module")
def unseen(bench, tmp_path_factory):
    """Subspace optimization of the second task through every delta."""
    from deltatune.subspace import cli

    out = tmp_path_factory.mktemp("unseen") / "out"
    words = [
        "optimize",
        "--subspace",
        bench / "space",
        "--tasks",
        f"[{bench / 'second.yaml'}]",
        "--lrs",
        "[0.05]",
        "--out_dir",
        out,
    ]
    words += ["--originals", bench / "original", *SHORT]
    assert cli.main(list(map(str, words))) == 0
    return out, words


def test_optimization_transfer_and_controls(bench, unseen, command):
    out, words = unseen
    records = [record for record in read_records(out) if record["split"] == "test"]
    counts = {kind: sum(record["kind"] == kind for record in records) for kind in {record["kind"] for record in records}}
    assert counts == {"optimization": 3, "transfer": 6, "random optimization": 3, "random transfer": 6, "zero": 3, "mean": 3}
    space = read(bench / "space")
    for record in records:
        original = read_json(bench / f"original/second/{record['target']}/run.json")["scores"]["test"]["value"]
        assert record["original"] == original
        if original:
            assert record["relative"] == pytest.approx(100 * record["value"] / original)
    run = out / "runs/second/lora/lr-0.05"
    facts = read_json(run / "run.json")
    assert facts["trainable"] == {"LoRA": 0, "other": 3}
    found = space.decode("lora", torch.tensor(facts["found"]["coordinates"]))
    assert all(torch.allclose(found[key], value, atol=1e-6) for key, value in checkpoint.read(run).weights.items())
    own = next(r for r in records if (r["kind"], r["source"], r["target"]) == ("optimization", "lora", "lora"))
    assert own["value"] == facts["scores"]["test"]["value"]
    assert "finished already" in command(*words)


def test_transfer_of_coordinates_and_of_a_solution_never_seen(bench, unseen, command, refused, tmp_path):
    out, _ = unseen
    run = out / "runs/second/lora/lr-0.05"
    words = ["transfer", "--subspace", bench / "space", "--device", "cpu"]
    assert "coordinates as they were tuned" in command(*words, "--run", run, "--out_dir", tmp_path / "tuned")
    records = {r["target"]: r["value"] for r in read_records(tmp_path / "tuned") if r["split"] == "test"}
    for record in read_records(out):
        if (record["kind"], record["source"], record["split"]) == ("transfer", "lora", "test"):
            assert records[record["target"]] == record["value"]
    assert list(checkpoint.read(tmp_path / "tuned/prefix").weights) == list(checkpoint.read(bench / "init/prefix").weights)
    said = command(*words, "--run", bench / "original/second/houlsby", "--targets", "[lora]", "--out_dir", tmp_path / "new")
    assert "from the encoder of houlsby" in said
    random = out / "runs/second/lora-random/lr-0.05"
    assert "random decoders" in refused(*words, "--run", random, "--out_dir", tmp_path / "no")


def test_a_task_is_added_without_training(bench, command, refused, tmp_path):
    words = ["add", "--subspace", bench / "space", "--init", bench / "init", "--solutions", f"[{bench / 'original'}]"]
    second, first = str(bench / "second.yaml"), str(bench / "first.yaml")
    shown = command(*words, "--tasks", f"[{second}]", "--mixtures", 0, "--device", "cpu", "--out_dir", tmp_path / "more")
    assert "2 source tasks in" in shown
    before, after = read(bench / "space"), read(tmp_path / "more")
    assert list(after.points) == [first, second]
    torch.testing.assert_close(after.points[first], before.points[first], atol=0, rtol=0)
    for name, own in before.projections.items():
        for field, tensor in own.tensors().items():
            assert torch.equal(after.projections[name].tensors()[field], tensor)
    run = {name: open_run(bench / "original/second" / name).saved.weights for name in NAMES}
    torch.testing.assert_close(after.points[second][0], before.encode(run))
    records = [record for record in read_records(tmp_path / "more") if record["split"] == "test"]
    assert [(record["place"], record["delta"]) for record in records] == [
        (place, name) for place in (*NAMES, "centroid") for name in NAMES
    ]
    assert "already; leave it out" in refused(*words, "--tasks", f"[{first}]", "--out_dir", tmp_path / "no")
    assert "names no task" in refused(*words, "--tasks", "[]", "--out_dir", tmp_path / "no")


@pytest.mark.parametrize("plane", ["triangle", "random"])
def test_a_landscape(bench, command, tmp_path, plane):
    words = ["landscape", "--subspace", bench / "space", "--plane", plane, "--resolution", 2, "--max_examples", 4]
    shown = command(*words, "--device", "cpu", "--out_dir", tmp_path / "map")
    count = 6 if plane == "triangle" else 25
    assert f"of {count} points" in shown
    records = read_records(tmp_path / "map")
    assert len(records) == 3 * count
    assert (tmp_path / "map/landscape.png").stat().st_size > 5000
    if plane == "triangle":  # the corners are the deltas' own points
        corner = next(r for r in records if (r["x"], r["y"], r["delta"]) == (0.0, 0.0, "lora"))
        space = read(bench / "space")
        assert corner["n"] == 4
        assert space.points[str(bench / "first.yaml")].shape == (1, 3, 3)


def test_a_report(unseen, command, tmp_path):
    out, _ = unseen
    shown = command("report", "--results", f"[{out}]", "--out_dir", tmp_path / "report")
    for title in ("## Optimization", "## Transfer", "## Means with 95% intervals", "## Absolute scores"):
        assert title in shown
    assert {path.name for path in (tmp_path / "report").rglob("*") if path.is_file()} >= {
        "report.md", "table.csv", "controls.png", "transfer.png",
    }  # fmt: skip


def test_what_does_not_fit_is_refused_in_one_line(bench, refused, tmp_path):
    approximate = ["approximate", "--init", bench / "init", "--out_dir", tmp_path / "out", "--device", "cpu"]
    shutil.copytree(bench / "original/first", tmp_path / "some/first")
    shutil.rmtree(tmp_path / "some/first/lora/delta")
    assert "1 solutions are missing" in refused(*approximate, "--solutions", f"[{tmp_path / 'some'}]")
    shutil.copytree(bench / "original/first", tmp_path / "other/first")
    file = tmp_path / "other/first/lora/run.json"
    facts = read_json(file)
    facts["start"]["digest"] = "0" * 64
    file.write_text(json.dumps(facts), encoding="utf-8")
    assert "tuned from values of digest 000000000000" in refused(*approximate, "--solutions", f"[{tmp_path / 'other'}]")
    assert "no initial values here" in refused("train-delta", "--init", tmp_path, "--tasks", "[a]", "--out_dir", tmp_path / "x")
    optimize = ["optimize", "--subspace", bench / "space", "--out_dir", tmp_path / "out", "--device", "cpu"]
    assert "no delta 'bitfit'" in refused(*optimize, "--tasks", f"[{bench / 'second.yaml'}]", "--sources", "[bitfit]")
    assert "no task given" in refused(*optimize)
    assert "no subspace here" in refused("landscape", "--subspace", tmp_path, "--out_dir", tmp_path / "out")
    lost = [*optimize, "--tasks", f"[{bench / 'second.yaml'}]", *SHORT[:4], "--originals"]
    assert "no original solution" in refused(*lost, tmp_path)
    for name, other in zip(NAMES, ("lora", "houlsby", "prefix"), strict=True):
        shutil.copytree(bench / "original/second" / other, tmp_path / "mixed/second" / name)
    assert "other settings than those of houlsby of the subspace" in refused(*lost, tmp_path / "mixed")
    transfer = ["transfer", "--subspace", bench / "space", "--out_dir", tmp_path / "moved", "--device", "cpu", "--run"]
    assert "tuned from values of digest 000000000000" in refused(*transfer, tmp_path / "other/first/lora")
    assert "other settings than those of lora" in refused(*transfer, bench / "original/first/houlsby", "--source", "lora")
    assert not (tmp_path / "moved").exists()


def test_a_task_that_is_not_unseen_is_named(bench, command, tmp_path):
    words = ["optimize", "--subspace", bench / "space", "--tasks", f"[{bench / 'first.yaml'}]", *SHORT, "--lrs", "[0.05]"]
    words += ["--sources", "[lora]", "--controls", "[]", "--out_dir", tmp_path / "out"]
    said = f"{bench / 'first.yaml'} is a source task of this subspace"
    assert said in command(*words)
    assert said in command(*words)  # finished already


def test_tasks_of_a_split(bench, command, tmp_path):
    split = tmp_path / "split.json"
    first, second = (str(bench / f"{name}.yaml") for name in ("first", "second"))
    split.write_text(json.dumps({"train": [first, first], "unseen": [second]}), encoding="utf-8")
    words = ["--split", split, "--family", "", *SHORT, "--out_dir"]
    approximate = ["approximate", "--init", bench / "init", "--solutions", f"[{bench / 'original'}]", "--k", 2, "--max_dev", 3]
    shown = command(*approximate, *words, tmp_path / "space")
    assert "more than once" in shown
    assert list(read(tmp_path / "space").points) == [first]
    scored = [record["n"] for record in read_records(tmp_path / "space") if record.get("split") == "dev" and "n" in record]
    assert set(scored) == {3}
    optimize = ["optimize", "--subspace", tmp_path / "space", "--lrs", "[0.05]", "--sources", "[lora]", "--controls", "[]"]
    command(*optimize, *words, tmp_path / "unseen")
    assert {record["task"] for record in read_records(tmp_path / "unseen")} == {second}


def test_a_point_can_begin_at_the_mean_of_the_sources(bench, command, tmp_path):
    words = ["optimize", "--subspace", bench / "space", "--tasks", f"[{bench / 'second.yaml'}]", *SHORT, "--lrs", "[1e-12]"]
    command(*words, "--sources", "[lora]", "--controls", "[mean]", "--first", "mean", "--out_dir", tmp_path / "out")
    facts = read_json(tmp_path / "out/runs/second/lora/lr-1e-12/run.json")
    torch.testing.assert_close(torch.tensor(facts["found"]["coordinates"]), read(bench / "space").mean_point())
    records = [record for record in read_records(tmp_path / "out") if (record["split"], record["target"]) == ("test", "prefix")]
    assert {record["kind"] for record in records} == {"mean", "transfer"}
    assert len({record["loss"] for record in records}) == 1


def test_results_of_other_dimensions_are_not_pooled(bench, unseen, refused, tmp_path):
    out, _ = unseen
    shutil.copytree(out, tmp_path / "other")
    file = tmp_path / "other/records.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace('"k": 3', '"k": 4'), encoding="utf-8")
    words = ["report", "--results", f"[{out}, {tmp_path / 'other'}]", "--out_dir", tmp_path / "report"]
    assert "k = 3 and k = 4 do not belong together" in refused(*words)
    assert not (tmp_path / "report").exists()


def test_a_rate_without_a_score_is_never_the_best():
    found = [None, {"value": None, "metric": "mse"}, {"value": float("nan"), "metric": "mse"}, {"value": 9.0, "metric": "mse"}]
    assert max(range(4), key=lambda i: _rank(found[i])) == 3
    assert _rank({"value": 0.2, "metric": "mse"}) > _rank(found[3])
    assert _rank({"value": 0.2, "metric": "accuracy"}) < _rank({"value": 0.3, "metric": "accuracy"})
