"""Tables of the study of ensembling on real text."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

ARMS = {
    "random": "from initial values",
    "uniform": "from the average of the sources",
    "single": "from the source with the lowest loss",
    "loss": "from the mixture weighted by Loss",
    "grand": "from the mixture weighted by GraNd",
    "learned": "from the mixture whose weights were learned by gradient",
}


def rows(found: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over samples in points, and the difference to the random start, sample by sample."""
    arms = [line for line in found if line["kind"] == "arm"]
    lines = [
        "| target | start | test, points | standard deviation | to random | better in | sources |",
        "|---|---|---|---|---|---|---|",
    ]
    targets = list(dict.fromkeys(line["target"] for line in arms))
    samples = sorted({line["sample"] for line in arms})
    points = {(line["target"], line["sample"], line["arm"]): 100 * line["value"] for line in arms}
    clean = [name for name in targets if name not in {line["target"] for line in found if line["kind"] == "shared"}]
    groups = {name: [name] for name in targets} | {f"mean of {len(targets)}": targets}
    if 0 < len(clean) < len(targets):
        groups[f"mean of the {len(clean)} that share no text with a source"] = clean
    for title, group in groups.items():
        for arm in ARMS:
            values = [statistics.mean(points[name, sample, arm] for name in group) for sample in samples]
            apart = [[points[name, sample, arm] - points[name, sample, "random"] for name in group] for sample in samples]
            cells = [title, arm, f"{statistics.mean(values):.1f}", f"{spread(values):.1f}"]
            if arm != "random":
                gains = [statistics.mean(row) for row in apart]
                every = [value for row in apart for value in row]
                counts = [line["sources"] for line in arms if line["arm"] == arm and line["target"] in group]
                cells += [f"{statistics.mean(gains):+.1f} ({spread(gains):.1f})", f"{sum(v > 0 for v in every)} of {len(every)}"]
                cells.append(f"{statistics.mean(counts):.1f}")
            lines.append(f"| {' | '.join([*cells, '', '', ''][:7])} |")
    shared = [line for line in found if line["kind"] == "shared"]
    lines += [""] if shared else []
    lines += [
        f"{100 * s['share']:.1f}% of the test texts of {s['target']} are also training texts of {s['source']}." for s in shared
    ]
    return "\n".join([*lines, "", *suggestions(found)]) + "\n"


def suggestions(found: list[dict[str, Any]]) -> Iterator[str]:
    """What `suggest` proposed for the first sample of each target, and the test scores from there and from other starts."""
    others = ("random", "uniform", "single")
    points = {(line["target"], line["sample"], line["arm"]): 100 * line["value"] for line in found if line["kind"] == "arm"}
    titles = ["target", "suggested", "heaviest source", "better than uniform by", "95% interval", "sure", "from it", *others]
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    told = [line for line in found if line["kind"] == "suggest"]
    for line in told:
        cells = [line["target"], line["chosen"], line["heaviest"] if line["chosen"] != "uniform" else ""]
        cells += [f"{line['gain']:+.3f}", f"{line['low']:+.3f} to {line['high']:+.3f}", "yes" if line["sure"] else "no"]
        cells += [f"{100 * line['value']:.1f}", *(f"{points[line['target'], line['sample'], arm]:.1f}" for arm in others)]
        yield f"| {' | '.join(cells)} |"
    means = [100 * statistics.mean(line["value"] for line in told)]
    means += [statistics.mean(points[line["target"], line["sample"], arm] for line in told) for arm in others]
    yield f"| mean |  |  |  |  |  | {' | '.join(f'{mean:.1f}' for mean in means)} |"


def spread(values: list[float]) -> float:
    """Standard deviation; not a number for a single value."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")
