"""The averages of a table of combinations."""

from __future__ import annotations

from deltatune.combos.gathering import Trial, choose
from deltatune.combos.results import cells, score_cell


def test_templates_are_averaged_over_the_tasks_that_all_of_them_have():
    scores = {
        ("glue/rte", "manual"): 0.5,
        ("trec", "manual"): 0.7,
        ("cr", "manual"): 0.9,
        ("trec", "none"): 0.6,
        ("cr", "none"): 0.8,
    }
    chosen = {(*place, "bias"): choose([Trial("1", None, 0.5, value)]) for place, value in scores.items()}
    averages = {(name, template): values[0] for name, template, values in cells(chosen, score_cell) if "average" in name}
    assert {place: round(value[0], 6) for place, value in averages.items()} == {
        ("average of 2", "manual"): 0.8,
        ("average of 2", "none"): 0.7,
    }
    del chosen["glue/rte", "manual", "bias"]
    assert [name for name, *_ in cells(chosen, score_cell)][-2:] == ["average", "average"]
    del chosen["cr", "none", "bias"]
    assert not [name for name, *_ in cells(chosen, score_cell) if "average" in name]  # one task in common is no average
