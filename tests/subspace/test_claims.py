"""The claims of the paper: all are declared, with the controls that the paper's package owes."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
from matplotlib.figure import Figure as Canvas

from deltatune.core import world_models
from deltatune.core.claims import CannotRunError, Context, Store
from deltatune.core.delta import attach
from deltatune.core.evaluation import evaluate
from deltatune.core.formats import build_format
from deltatune.core.loading import load_backbone
from deltatune.subspace.claims import CLAIMS
from deltatune.subspace.claims.further import chance_cells, excess
from deltatune.subspace.claims.measured import ENCODER, Setup, beside, mean, solved, unseen


def record(kind, value, source="lora", target="prefix", original=0.9, chance=0.5):
    return {
        "kind": kind, "source": source, "target": target, "task": "world/topic-1", "value": value, "original": original,
        "chance": chance, "relative": 100 * value / original, "stderr": 0.02, "n": 300,
    }  # fmt: skip


RECORDS = [
    record("optimization", 0.81, target="lora"),
    record("transfer", 0.72),
    record("transfer", 0.51, source="houlsby"),
    record("random optimization", 0.54, target="lora"),
    record("zero", 0.45, source=None),
    record("mean", 0.63, source=None),
]


def test_every_claim_of_the_specification_is_declared():
    assert [claim.id for claim in CLAIMS if "-" not in claim.id] == [f"C{number}" for number in range(1, 14)]
    assert [claim.id for claim in CLAIMS if claim.tier == "headline"] == ["C1", "C2", "C3", "C7", "C8", "C11"]
    for claim in CLAIMS:
        assert claim.settings["one"]["base"] == ("world/m3" if claim.id.endswith("-encoder") else "world/t5")
        assert {"random", "zero", "mean_point", "chance"} <= {control.name for control in claim.controls}, claim.id
        assert claim.seeds >= 5


def test_the_published_numbers_beside_the_claims_follow_from_the_published_tables(golden):
    tables = golden.case("subspace", "paper_tables.json", "tables")
    assert golden.case("subspace", "paper_tables.json", "units").startswith("relative performance in percent")

    def mean_of(table, *columns):
        places = [tables[table]["columns"].index(column) for column in columns]
        return fmean(row[place] for row in tables[table]["rows"] for place in places)

    kinds, ways = ("Adapter", "LoRA", "Prefix"), ("A->L", "A->P", "L->A", "L->P", "P->A", "P->L")
    optimized, moved = mean_of("single_task_optimization", *kinds), mean_of("single_task_transfer", *ways)
    into = [mean_of("single_task_transfer", *(way for way in ways if way.endswith(end))) for end in ("A", "P")]
    said = {claim.id: claim.paper_value for claim in CLAIMS}
    assert said["C1"] == f"{optimized:.1f} %"
    assert said["C2"] == f"{moved:.1f} %"
    assert said["C3"] == f"{optimized - moved:.1f} points"
    assert said["C4"] == f"{mean_of('multi_task_optimization', *kinds):.1f} %"
    assert said["C8"] == f"{into[0]:.1f} against {into[1]:.1f}"


def test_controls_of_made_up_records():
    found = beside(RECORDS)
    assert found["random"] == pytest.approx(30.0)
    assert found["zero"] == pytest.approx(40.0)
    assert found["mean_point"] == pytest.approx(20.0)
    assert found["chance"] == pytest.approx(31.0)
    assert mean(RECORDS, "transfer") == pytest.approx(100 * (0.72 + 0.51) / 2 / 0.9)


def test_one_original_that_learned_nothing_voids_a_seed():
    assert solved(RECORDS) == pytest.approx({"solved": 40.0, "headroom": 45.0})
    flat = [*RECORDS, record("zero", 0.48, source=None, target="lora", original=0.5)]
    assert solved(flat) == pytest.approx({"solved": 0.0, "headroom": 2.0})


def test_the_triangle_is_drawn_as_the_mean_over_seeds():
    claim = next(claim for claim in CLAIMS if claim.id == "C12")
    places = [(0.0, 0.0), (1.0, 0.0), (0.5, 0.9)]
    rows = [
        {"delta": name, "x": x, "y": y, "value": 0.2 * seed} for seed in (1, 2) for name in ("houlsby", "lora") for x, y in places
    ]
    figure = Canvas()
    claim.figures[0].draw(figure, rows)
    drawn = [list(chart.collections[0].get_array()) for chart in figure.axes[:2]]
    assert drawn == [pytest.approx([0.3] * 3)] * 2


def test_cells_at_chance_and_above_the_original():
    assert [cell["source"] for cell in chance_cells(RECORDS)] == ["houlsby"]
    above = [record("optimization", 0.91), record("transfer", 0.99), record("transfer", 0.5), record("transfer", 0.6)]
    assert excess(above) == (50.0, 25.0)


def test_the_encoder_is_asked_in_words_that_say_nothing_to_it():
    setup = Setup(base=ENCODER)
    backbone, task = load_backbone(setup.backbone()), replace(setup.task("sentiment-0"), max_dev=100).load()
    tuned = attach(backbone, setup.deltas[0][0])
    untuned = evaluate(tuned, build_format(backbone, task), task.dev).value
    assert abs(untuned - 0.5) < 0.1  # in its own words it is right in 83%
    others = [attach(load_backbone(setup.backbone()), config) for config, _ in setup.deltas[1:]]
    assert [sum(tensor.numel() for tensor in each.weights().values()) for each in (tuned, *others)] == [9216] * 3


def test_without_the_model_a_claim_cannot_run(tmp_path, monkeypatch):
    monkeypatch.setattr(world_models, "names", list)
    with pytest.raises(CannotRunError, match="ships no model world/t5"):
        unseen(Context(Store(tmp_path)), Setup(), ("sentiment-1",), 0)
    assert list(tmp_path.iterdir()) == []
