"""Decoders that are learned without solutions."""

from __future__ import annotations

import shutil

import pytest
import torch

from deltatune.core.run import read_records
from deltatune.subspace.decoders import Structured, draw_structured, padded
from deltatune.subspace.hypernetwork import Maps
from deltatune.subspace.space import read, save

SHORT = ["--train.steps", 2, "--train.eval_every", 1, "--train.batch_size", 4, "--device", "cpu"]


def structured(lengths=(6, 1, 4), k=3):
    return draw_structured(lengths, k, torch.Generator().manual_seed(0))


def test_each_tensor_has_a_structured_projection_of_its_own():
    own = structured()
    # The next power of two of 6, of 3 (the coordinates, since a tensor of one value is shorter) and of 4.
    assert [padded(length, 3) for length in (6, 1, 4)] == [8, 4, 4]
    assert (own.k, own.size, len(own.scale)) == (3, 11, 16)
    points = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([torch.cat([part(point) for part in own.parts()]) for point in points])
    torch.testing.assert_close(own.decode(points), expected)
    assert float(own.decode(torch.zeros(3)).abs().sum()) == 0


def test_scales_are_trained_and_divisors_stay():
    own = structured()
    own.scale.requires_grad_(True)
    own.decode(torch.ones(3)).sum().backward()
    assert own.scale.grad is not None
    assert own.scale.grad.ne(0).any()
    assert not own.divisors.requires_grad


def test_the_control_has_scales_of_the_same_length_for_each_tensor():
    own = structured()
    random = own.random(torch.Generator().manual_seed(1))
    assert not torch.equal(own.signs, random.signs)
    for one, other in zip(own.parts(), random.parts(), strict=True):
        torch.testing.assert_close(one.scale.norm(), other.scale.norm())
        assert one.divisor == other.divisor


@pytest.fixture
def maps(bench, command, tmp_path):
    words = ["make-init", "--model", bench / "model", "--form", "prompt", "--out_dir", tmp_path / "init"]
    words += ["--deltas+", "LoRA", "--deltas.rank", 1, "--deltas+", "Prefix", "--deltas.length", 2, "--deltas.width", "null"]
    command(*words, "--deltas+", "Full")
    words = ["hypernetwork", "--init", tmp_path / "init", "--task", bench / "first.yaml", "--k", 3, *SHORT]
    shown = command(*words, "--out_dir", tmp_path / "maps")
    assert "3 numbers decoded into each" in shown
    assert "finished already" in command(*words, "--out_dir", tmp_path / "maps")
    return tmp_path


def test_a_hypernetwork_is_a_subspace_without_encoders(maps, bench, command, refused):
    space = read(maps / "maps")
    assert (space.names, space.k) == (("lora", "prefix", "full"), 3)
    points = space.points[str(bench / "first.yaml")]
    assert torch.equal(points, points[:, :1].expand(1, 3, 3))  # one point for all
    assert isinstance(space.projections["full"], Structured)
    zero = space.decode("lora", torch.zeros(3))
    assert all(not tensor.any() for tensor in zero.values())  # no initial values are added
    assert any(tensor.any() for tensor in space.decode("prefix", torch.zeros(3)).values())  # but the trained bias
    save(maps / "copy", space)
    assert read(maps / "copy").digest == space.digest
    scored = {(record["delta"], record["split"]) for record in read_records(maps / "maps") if record["kind"] == "point"}
    assert scored == {(name, split) for name in space.names for split in ("dev", "test")}
    said = refused("transfer", "--subspace", maps / "maps", "--run", bench / "original/first/lora", "--out_dir", maps / "moved")
    assert "lora has no encoder" in said
    assert not (maps / "moved").exists()
    said = refused("landscape", "--subspace", maps / "maps", "--out_dir", maps / "grid")
    assert "all deltas have one point" in said
    words = ["add", "--subspace", maps / "maps", "--init", maps / "init", "--solutions", f"[{bench / 'original'}]"]
    assert "lora has no encoder" in refused(*words, "--tasks", f"[{bench / 'second.yaml'}]", "--out_dir", maps / "more")
    assert not (maps / "more").exists()


def test_coordinates_are_tuned_in_a_hypernetwork_as_in_any_subspace(maps, bench, command):
    words = ["optimize", "--subspace", maps / "maps", "--tasks", f"[{bench / 'second.yaml'}]", *SHORT, "--lrs", "[0.05]"]
    command(*words, "--out_dir", maps / "unseen")
    found = [record for record in read_records(maps / "unseen") if record["split"] == "test"]
    kinds = {record["kind"] for record in found}
    assert kinds == {"optimization", "transfer", "random optimization", "random transfer", "zero", "mean"}
    assert sum(record["kind"] == "transfer" for record in found) == 6


def test_a_plane_goes_through_the_one_point_of_all_deltas(maps, command, refused):
    words = ["landscape", "--subspace", maps / "maps", "--max_examples", 2, "--resolution", 1, "--device", "cpu"]
    assert "take --plane random" in refused(*words, "--out_dir", maps / "none")
    assert "of 9 points" in command(*words, "--plane", "random", "--out_dir", maps / "plane")
    values = read_records(maps / "plane")
    assert len({row["loss"] for row in values if row["delta"] == "lora"}) > 1


def test_a_fixed_dense_projection_of_differences(bench, command, tmp_path):
    words = ["make-init", "--model", bench / "model", "--form", "prompt", "--out_dir", tmp_path / "init", "--deltas+", "Full"]
    command(*words)
    words = ["hypernetwork", "--init", tmp_path / "init", "--task", bench / "first.yaml", "--k", 2, "--differences", "dense"]
    shown = command(*words, *SHORT, "--out_dir", tmp_path / "maps")
    assert "; 2 values trained" in shown  # the point alone
    assert read(tmp_path / "maps").projections["full"].tensors()["decoder_weight"].std() == pytest.approx(0.01, rel=0.05)


def test_what_has_no_map_is_refused_before_anything_is_written(bench, command, refused, tmp_path):
    words = ["make-init", "--model", bench / "model", "--deltas+", "LoRA", "--deltas.rank", 1, "--form"]
    command(*words, "head", "--out_dir", tmp_path / "head")
    words = ["hypernetwork", "--task", bench / "first.yaml", *SHORT, "--out_dir", tmp_path / "maps", "--init"]
    assert "has a task head" in refused(*words, tmp_path / "head")
    assert "make the prefix with --deltas.width null" in refused(*words, bench / "init", "--only", "[prefix]")
    assert "at least 1 number, got k 0" in refused(*words, bench / "init", "--only", "[lora]", "--k", 0)
    assert not (tmp_path / "maps").exists()


def test_settings_of_the_deltas_are_part_of_what_a_run_is(bench, command, refused, tmp_path):
    for alpha in (8, 16):
        words = ["make-init", "--model", bench / "model", "--form", "prompt", "--deltas+", "LoRA", "--deltas.rank", 1]
        command(*words, "--deltas.alpha", alpha, "--out_dir", tmp_path / f"init-{alpha}")
    words = ["hypernetwork", "--task", bench / "first.yaml", "--lr", 0.02, *SHORT, "--out_dir", tmp_path / "maps", "--init"]
    command(*words, tmp_path / "init-8")
    assert "another run" in refused(*words, tmp_path / "init-16")
    copy = shutil.copytree(bench / "model", tmp_path / "moved")
    assert "finished already" in command(*words, tmp_path / "init-8", "--model", copy)


def test_an_interrupted_one_ends_as_one_never_interrupted(maps, bench, command, refused, monkeypatch):
    words = ["hypernetwork", "--init", maps / "init", "--task", bench / "first.yaml", "--k", 3, *SHORT[2:], "--train.steps", 4]
    words += ["--train.save_every", 1]
    command(*words, "--out_dir", maps / "whole")
    plain, calls = Maps.loss, []

    def fail(self, form, batch):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(5, "gone")
        return plain(self, form, batch)

    monkeypatch.setattr(Maps, "loss", fail)
    assert "gone" in refused(*words, "--out_dir", maps / "cut")
    monkeypatch.setattr(Maps, "loss", plain)
    command(*words, "--out_dir", maps / "cut")
    assert read(maps / "whole").digest == read(maps / "cut").digest
