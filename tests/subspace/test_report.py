"""The report of subspace optimization: what its figures and its lists show."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from deltatune.subspace.figures import bars
from deltatune.subspace.tables import report_text

COMMON = {"source": "lora", "metric": "accuracy", "n": 100, "stderr": 0.05, "corrected": None, "result": 0, "seed": 0}


def record(task, kind, target, value, original, chance, **others):
    ratio = None if not original else 100 * value / original
    numbers = {"value": value, "original": original, "chance": chance, "relative": ratio}
    return {**COMMON, "task": task, "kind": kind, "target": target, **numbers, **others}


RECORDS = [
    record("world/topic-0", "optimization", "lora", 0.70, 0.80, 0.25),
    record("world/topic-0", "optimization", "prefix", 0.60, 0.50, 0.25),
    record("world/topic-0", "zero", "lora", 0.26, 0.80, 0.25),
    record("world/topic-0", "zero", "prefix", 0.20, 0.50, 0.25),
    record("world/aspect-0", "optimization", "lora", 0.90, 1.00, 0.50),
    record("world/aspect-0", "optimization", "prefix", 0.55, 0.0, 0.50),
    record("world/aspect-0", "zero", "lora", 0.50, 1.00, 0.50),
    record("world/aspect-0", "zero", "prefix", 0.50, 0.0, 0.50),
]


def drawn(measure):
    """The chance lines: (left, right, height) of each, and the bars."""
    figure = Figure()
    bars(figure, RECORDS, measure)
    [chart] = figure.axes
    [lines] = [item for item in chart.collections if item.get_label() == "chance"]
    found = [(float(a[0]), float(b[0]), float(a[1])) for a, b in lines.get_segments()]
    assert "chance" in [text.get_text() for text in chart.get_legend().get_texts()]
    return found, [bar for container in chart.containers for bar in container]


def test_chance_is_a_line_over_every_bar_in_the_unit_of_the_bars():
    lines, boxes = drawn("value")
    assert sorted(height for _, _, height in lines) == pytest.approx([0.25] * 4 + [0.5] * 4)
    for left, right, height in lines:
        inside = [bar for bar in boxes if left < bar.get_x() + bar.get_width() / 2 < right]
        assert len(inside) == 1, (left, right, height)


def test_relative_chance_differs_between_targets_and_needs_an_original():
    lines, _ = drawn("relative")
    assert sorted(height for _, _, height in lines) == pytest.approx([31.25, 31.25, 50.0, 50.0, 50.0, 50.0])


def test_what_transfer_costs_counts_an_optimization_that_failed():
    def of(task, kind, relative):
        return record(task, kind, "lora", relative / 100, 1.0, 0.0)

    pairs = [of("a", "optimization", 0.0), of("a", "transfer", 80.0), of("b", "optimization", 90.0), of("b", "transfer", 90.0)]
    assert "on the same task and target: -40.0 [-80.0, 0.0] points" in report_text(pairs, "test")


def test_the_tables_have_a_mean_of_every_row_and_column():
    text = report_text(RECORDS, "test")
    optimized = text.partition("## Optimization\n\n")[2].split("\n\n")[0].splitlines()
    assert optimized == [
        "| task | lora | prefix | mean |",
        "|---|---|---|---|",
        "| world/topic-0 | 87.5 | 120.0 | 103.8 |",
        "| world/aspect-0 | 90.0 |  | 90.0 |",
        "| mean | 88.8 | 120.0 | 104.4 |",
    ]
    # 100 (0.70 - 0.25) / (0.80 - 0.25); of the prefix 140; of aspect-0's lora 80, and its prefix has no original.
    records = [{**r, "corrected": c} for r, c in zip(RECORDS[:2], (81.8, 140.0), strict=True)]
    assert "| optimization | 103.8 | 110.9 | 65.0 |" in report_text(records, "test")


def test_cells_at_chance_or_below_are_listed():
    scores = {"above": 0.62, "near": 0.45, "below": 0.02}
    records = [record("world/x-0", "transfer", name, value, 0.8, 0.5) for name, value in scores.items()]
    text = report_text(records, "test")
    listed = text.partition("## Cells at chance or below\n")[2].split("## ")[0]
    assert "lora to near: 45.0 beside chance 50.0" in listed
    assert "lora to below: 2.0 beside chance 50.0" in listed
    assert "above" not in listed
