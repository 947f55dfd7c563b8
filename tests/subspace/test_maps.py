"""Landscapes: where the places of a map lie, what is scored there, and what is said of a whole map."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json
from deltatune.core.run import read_records
from deltatune.subspace import cli
from deltatune.subspace.landscape import axes, common_region, correlations, flat, plane, summary, triangle

NAMES = ("houlsby", "lora", "prefix")
HEIGHT = math.sqrt(3) / 2


@pytest.fixture(scope="module")
def steep(bench, tmp_path_factory):
    """A run of `approximate` with a rate so high that the deltas' points are far apart."""
    out = tmp_path_factory.mktemp("steep") / "space"
    words = ["approximate", "--init", bench / "init", "--solutions", f"[{bench / 'original'}]", "--k", 3, "--lr", 0.5]
    words += ["--tasks", f"[{bench / 'first.yaml'}]", "--train.steps", 3, "--train.eval_every", 3, "--mixtures", 0]
    assert cli.main(list(map(str, [*words, "--device", "cpu", "--out_dir", out]))) == 0
    return out


def scores_at(steep, place, split):
    """Delta -> what `approximate` found at the place."""
    return {r["delta"]: r for r in read_records(steep) if (r["kind"], r.get("place"), r["split"]) == ("point", place, split)}


def the_same(record, expected):
    assert [record[key] for key in ("split", "metric", "n")] == [expected[key] for key in ("split", "metric", "n")]
    assert record["value"] == pytest.approx(expected["value"])
    assert record["loss"] == pytest.approx(expected["loss"], abs=1e-5)


@pytest.mark.parametrize(("split", "corners"), [("dev", NAMES), ("test", ("prefix", "houlsby", "lora"))])
def test_the_corners_of_the_triangle_score_as_the_points_of_their_deltas(steep, command, tmp_path, split, corners):
    words = ["landscape", "--subspace", steep, "--split", split, "--resolution", 3, "--corners", f"[{', '.join(corners)}]"]
    command(*words, "--device", "cpu", "--out_dir", tmp_path / "map")
    records = read_records(tmp_path / "map")
    seen = {(record["x"], record["y"], record["delta"]): record for record in records}
    assert len(seen) == len(records) == 10 * 3
    losses = set()
    places = {**dict(zip(corners, [(0.0, 0.0), (1.0, 0.0), (0.5, HEIGHT)], strict=True)), "centroid": flat((1 / 3, 1 / 3, 1 / 3))}
    for place, (x, y) in places.items():
        for delta, expected in scores_at(steep, place, split).items():
            the_same(seen[x, y, delta], expected)
            losses.add(round(expected["loss"], 5))
    assert len(losses) == 4 * 3  # so no score could have taken another's place
    said = read_json(tmp_path / "map/run.json")["landscape"]
    maps = {delta: [record["value"] for record in records if record["delta"] == delta] for delta in NAMES}
    works = [all(maps[delta][i] >= 0.9 * max(maps[delta]) for delta in NAMES) for i in range(10)]
    assert said["common_region"] == pytest.approx(sum(works) / 10)
    assert list(said["correlations"]) == ["houlsby, lora", "houlsby, prefix", "lora, prefix"]


def test_the_middle_of_a_random_plane_scores_as_the_centroid(steep, command, tmp_path):
    words = ["landscape", "--subspace", steep, "--plane", "random", "--resolution", 1, "--device", "cpu"]
    command(*words, "--out_dir", tmp_path / "map")
    seen = {(record["x"], record["y"], record["delta"]): record for record in read_records(tmp_path / "map")}
    assert len(seen) == 9 * 3
    for delta, expected in scores_at(steep, "centroid", "dev").items():
        the_same(seen[0.0, 0.0, delta], expected)
        near = [at for at, record in seen.items() if at[2] == delta and abs(record["loss"] - expected["loss"]) < 1e-5]
        assert near == [(0.0, 0.0, delta)]


def test_the_places_of_a_triangle_are_at_equal_distances():
    assert set(triangle(2)) == {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)}
    assert [len(triangle(r)) for r in (1, 2, 3, 6)] == [3, 6, 10, 28]  # (r + 1)(r + 2) / 2
    assert [flat(corner) for corner in ((1, 0, 0), (0, 1, 0), (0, 0, 1))] == [(0, 0), (1, 0), (0.5, pytest.approx(HEIGHT))]
    places = [flat(shares) for shares in triangle(4)]
    for number, place in enumerate(places):
        assert min(math.dist(place, other) for i, other in enumerate(places) if i != number) == pytest.approx(1 / 4)


def test_the_places_of_a_plane_are_a_square_grid():
    assert plane(1) == [(-1, -1), (0, -1), (1, -1), (-1, 0), (0, 0), (1, 0), (-1, 1), (0, 1), (1, 1)]
    assert len(plane(3)) == 49


def test_the_axes_of_a_plane_are_at_a_right_angle_and_of_the_given_length():
    across = axes(5, 3.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(across @ across.T, 9 * torch.eye(2))
    assert not torch.equal(across, axes(5, 3.0, torch.Generator().manual_seed(1)))


def test_a_map_of_no_places_is_refused():
    for places in (triangle, plane):
        with pytest.raises(DeltatuneError, match="--resolution must be at least 1, got 0"):
            places(0)
    with pytest.raises(DeltatuneError, match="at least 2 dimensions, got 1"):
        axes(1, 1.0, torch.Generator())


def test_the_common_region_is_where_every_delta_has_nine_tenths_of_its_own_best():
    first = [1.0, 0.9, 0.89, 0.5]  # works at the places 0 and 1
    second = [0.5, 0.4, 0.5, 0.46]  # 0.45 is enough: at 0, 2 and 3
    assert common_region({"first": first}) == 2 / 4
    assert common_region({"first": first, "second": second}) == 1 / 4
    assert common_region({"first": first, "second": second, "third": [0.0, 1.0, 1.0, 1.0]}) == 0
    assert common_region({"first": first, "constant": [0.3] * 4}) == 2 / 4  # equally good everywhere
    assert common_region({"constant": [0.3] * 4, "other": [0.6] * 4}) == 1


def test_maps_correlate_by_rank_and_a_constant_one_with_none():
    maps = {
        "first": [1.0, 2.0, 3.0, 4.0],
        "second": [10.0, 20.0, 400.0, 30.0],  # the last two swapped: 1 - 6 (1 + 1) / (4 (16 - 1)) = 0.8
        "third": [0.4, 0.3, 0.2, 0.1],  # reversed
        "fourth": [1.0, 1.0, 2.0, 2.0],  # ranks 1.5, 1.5, 3.5, 3.5: beside 1 to 4 they have 4 / sqrt(4 * 5)
        "constant": [0.5] * 4,
    }
    found = correlations(maps)
    assert list(found) == [f"{left}, {right}" for left, right in combinations(maps, 2)]
    assert found["first, second"] == pytest.approx(0.8)
    assert found["first, third"] == pytest.approx(-1.0)
    assert found["second, third"] == pytest.approx(-0.8)
    assert found["first, fourth"] == pytest.approx(4 / math.sqrt(20))
    assert [pair for pair, value in found.items() if value is None] == [f"{name}, constant" for name in list(maps)[:4]]
    assert correlations({"first": [1.0, 2.0]}) == {}


def test_a_summary_is_of_one_split_with_0_for_what_has_no_score():
    maps = {"lora": [0.8, 0.4, 0.8], "prefix": [0.2, None, 0.1]}
    records = [{"delta": d, "split": "dev", "value": own[i], "metric": "accuracy"} for i in range(3) for d, own in maps.items()]
    records += [{"delta": d, "split": "test", "value": 0.5, "metric": "accuracy"} for _ in range(3) for d in maps]
    dev = summary(records, "dev")
    # LoRA works at 0 and 2, the prefix at 0 alone. Ranks 2.5, 1, 2.5 and 3, 1, 2: 1.5 / sqrt(1.5 * 2).
    assert dev == {
        "split": "dev",
        "common_region": pytest.approx(1 / 3),
        "correlations": {"lora, prefix": pytest.approx(math.sqrt(3) / 2)},
    }
    assert summary(records, "test") == {"split": "test", "common_region": 1, "correlations": {"lora, prefix": None}}
    assert summary(records, "train") == {}


def test_of_an_error_the_least_is_the_best():
    errors = {"lora": [0.1, 5.0, 0.11], "prefix": [0.2, 1.0, None]}
    records = [{"delta": d, "split": "dev", "value": own[i], "metric": "mse"} for i in range(3) for d, own in errors.items()]
    # 0.11 is within 0.1 / 0.9 of LoRA's best; what has no score is the prefix's worst.
    assert summary(records, "dev")["common_region"] == pytest.approx(1 / 3)


def test_a_delta_that_never_works_leaves_no_common_region():
    assert common_region({"first": [0.5, 0.6], "never": [0.0, 0.0]}) == 0
    assert common_region({"anti": [-0.5, -0.6]}) == 0
    assert common_region({"exact": [20 / 25, 18 / 25, 17 / 25]}) == pytest.approx(2 / 3)  # 18 is 90% of 20
