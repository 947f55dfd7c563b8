"""Is the mixture that `deltatune-ensemble suggest` proposes a good start? Compared with what tuning later shows, on the world.

    uv run python benchmarks/ensemble_suggest.py --out_dir runs/suggest --table runs/suggest.md

A case is a task of the built-in world with 16 training and 16 dev examples of each class, and the 23 other deltas that come with
`world/t5` for tasks above chance there (adapters, from one initial delta). `suggest` looks at the training examples alone and
proposes a mixture. Then the target is tuned to the end, with several seeds of order and dropout, from that mixture, from the
plain average, from the single source with the lowest loss on the same examples, and from initial values. Each step is one
command, printed as it could be typed; a finished one is not done again.

A policy's start is as good as the best where its mean test score is at most one point below that of the best start; regret is
how far below it is; its cost is the seconds that it takes to find it, before any tuning. Targets are of the last two domains,
whose test scores chose no rate of the sources; tuning is that of the package's claims (40 updates of 8, rate 1e-2).
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

from ensemble_steps import PROGRAM, left_of, run_stage
from jsonargparse import auto_cli
from steps import points, publish

from deltatune.core.evidence import Truth, judge
from deltatune.core.files import read_json, replacing
from deltatune.core.pool import cores
from deltatune.core.world_models import DELTAS

BASE, KIND = "world/t5", "Houlsby"
FAMILIES = ("sentiment", "topic", "aspect", "relation", "inference", "paraphrase")
SOURCES = tuple(f"{family}-{domain}" for family in FAMILIES for domain in range(4))
TARGETS = tuple(f"{family}-{domain}" for domain in (2, 3) for family in FAMILIES)
WAYS = ("suggested", "uniform", "single", "random")
POLICIES = {
    "suggest": "suggested",
    "always the average": "uniform",
    "always the best single source": "single",
    "always initial values": "random",
}
SECONDS = {"suggest": 40.0, "weights": 5.0, "start": 0.5, "tune": 8.0}  # of one thread


def folder(out_dir: Path, target: str, what: str) -> Path:
    """Where a step of a case is kept."""
    return out_dir / target / what


def stages(out_dir: Path, targets: tuple[str, ...], seeds: int, updates: int, max_test: int) -> dict[str, list[list[Any]]]:
    """The commands; those of one stage do not wait for each other."""
    found: dict[str, list[list[Any]]] = {name: [] for name in ("suggest", "weights", "starts", "tuning")}
    about = read_json(DELTAS / SOURCES[0] / KIND / "deltatune.json")["deltas"][0]
    delta = ["--delta", KIND, "--delta.width", about["width"], "--delta.bias", str(about["bias"]).lower()]
    train = [
        "--train.steps",
        updates,
        "--train.batch_size",
        8,
        "--train.eval_every",
        max(1, updates // 2),
        "--train.ties",
        "last",
    ]
    train += ["--lr", 1e-2, "--train.optimizer.warmup", 0.06, "--max_test", max_test, "--init_seed", 0]
    for target in targets:
        at = {what: folder(out_dir, target, what) for what in ("suggestion", "weights", "uniform", "single")}
        sources, shots = ["--sources", out_dir / "sources"], ["--shots", 16, "--sample_seed", 1]
        found["suggest"].append(["suggest", *sources, "--task", f"world/{target}", *shots, "--out_dir", at["suggestion"]])
        plain = ["--measures", "[uniform, single]", "--budget.split", "train", "--budget.reduction", "mean"]
        found["weights"].append(["weights", *sources, "--tasks", f"[world/{target}]", *shots, *plain, "--out_dir", at["weights"]])
        for name in ("uniform", "single"):
            found["starts"].append(["start", "--weights", at["weights"], "--measure", name, "--out_dir", at[name]])
        starts: dict[str, list[Any]] = {way: ["--start", at[way] / target] for way in ("uniform", "single")}
        starts |= {"suggested": ["--start", at["suggestion"] / "start"], "random": []}
        for way, seed in ((way, seed) for way in WAYS for seed in range(1, seeds + 1)):
            own = ["tune", "--model", BASE, "--form", "text", "--task", f"world/{target}", *shots, *delta, *train]
            own += ["--data_seed", seed, *starts[way], "--out_dir", folder(out_dir, target, f"{way}-{seed}")]
            found["tuning"].append(own)
    return found


def copy_sources(out_dir: Path) -> None:
    """The shipped deltas side by side, as a user keeps them."""
    for name in SOURCES:
        if not (out_dir / "sources" / name).is_dir():
            with replacing(out_dir / "sources" / name) as target:
                shutil.copytree(DELTAS / name / KIND, target)


def record(out_dir: Path, target: str, seeds: int) -> dict[str, Any]:
    """What was suggested, what it took, and the test scores from every start."""
    said = read_json(folder(out_dir, target, "suggestion") / "run.json")
    scores = {way: [_test(folder(out_dir, target, f"{way}-{seed}")) for seed in range(1, seeds + 1)] for way in WAYS}
    weights = next(row for row in said["evidence"] if row["weighing"] == said["chosen"])
    seconds = {"suggested": said["seconds"], "single": read_json(folder(out_dir, target, "weights") / "run.json")["seconds"]}
    kept = {"chosen": said["chosen"], "sure": said["sure"], "sources": weights["effective_number"], "gain": weights["gain"]}
    return {"target": target, **kept, "scores": scores, "seconds": seconds}


def _test(run: Path) -> float:
    return float(read_json(run / "run.json")["scores"]["test"]["value"])


def main(
    out_dir: Path,
    targets: tuple[str, ...] = TARGETS,
    seeds: int = 2,
    updates: int = 40,
    max_test: int = 200,
    table: Path | None = None,
    records: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Do what is not done yet, and print two tables.

    Args:
        out_dir: where everything goes.
        targets: tasks of the world.
        seeds: of every tuning.
        updates: of every tuning.
        max_test: test examples at most.
        table: also write the tables to this file.
        records: also write what they are made from to this file.
        dry_run: print the commands and the estimate only.
    """
    plan = stages(out_dir, targets, seeds, updates, max_test)
    todo = [words for commands in plan.values() for words in commands]
    left = left_of(todo)
    minutes = sum(SECONDS[words[0]] for words in left) / 60
    print(f"{len(todo)} steps, {len(todo) - len(left)} of them finished; about {minutes:.0f} minutes of one core")
    if dry_run:
        for words in todo:
            print(PROGRAM, *words)
        return
    copy_sources(out_dir)
    for name, commands in plan.items():
        run_stage(name, commands, cores())
    found = [record(out_dir, target, seeds) for target in targets]
    publish(found, rows(found), records, table)


def truth(line: dict[str, Any]) -> dict[str, Truth]:
    """What every start was worth, in points."""
    return {way: Truth(100 * statistics.mean(values), line["seconds"].get(way, 0.0)) for way, values in line["scores"].items()}


def rows(found: list[dict[str, Any]]) -> str:
    """The policies side by side, then the cases."""
    truths = [truth(line) for line in found]
    choices = {policy: [way] * len(found) for policy, way in POLICIES.items()}
    lines = ["| policy | as good as the best | mean regret, points | largest regret | seconds to find it | mean score, points |"]
    lines.append("|---|---|---|---|---|---|")
    for row in judge(choices, truths, [1.0] * len(truths)):
        score = statistics.mean(case[POLICIES[row["policy"]]].value for case in truths)
        agreed = f"{row['agreement'] * row['cases']:.0f} of {row['cases']}"
        cells = [row["policy"], agreed, f"{row['regret']:.1f}", f"{row['worst']:.1f}", f"{row['cost']:.0f}", f"{score:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"| target | suggested weights | sources | sure | {' | '.join(WAYS)} |",
        "|---|---|---|---|" + "---|" * len(WAYS),
    ]
    for line in found:
        cells = [line["target"], line["chosen"], f"{line['sources']:.1f}", "yes" if line["sure"] else "no"]
        lines.append(f"| {' | '.join([*cells, *(points(line['scores'][way]) for way in WAYS)])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
