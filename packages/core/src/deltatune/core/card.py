"""The model card of an exported adapter: what is recorded about it, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from deltatune.core.data import published_source
from deltatune.core.delta import DeltaConfig, Head
from deltatune.core.files import read_json
from deltatune.core.reuse import TunedRun

# What the hub calls a metric.
_METRICS = {
    "accuracy": "accuracy", "ACC": "accuracy", "f1": "f1", "macro_f1": "f1", "Classification-F1": "f1", "QA-F1": "f1",
    "matthews": "matthews_correlation", "Matthew-Correlation": "matthews_correlation", "pearson": "pearsonr",
    "Pearson-Correlation": "pearsonr", "spearman": "spearmanr", "Spearman-Correlation": "spearmanr", "mse": "mse",
    "EM": "exact_match", "Rouge-L": "rouge",
}  # fmt: skip

_PAPERS = {
    "LoRA": """@inproceedings{hu2022lora,
  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and
            Wang, Lu and Chen, Weizhu},
  booktitle = {International Conference on Learning Representations},
  year = {2022}
}""",
    "SoftPrompt": """@inproceedings{lester2021power,
  title = {The Power of Scale for Parameter-Efficient Prompt Tuning},
  author = {Lester, Brian and Al-Rfou, Rami and Constant, Noah},
  booktitle = {Proceedings of the 2021 Conference on Empirical Methods in Natural Language Processing},
  year = {2021}
}""",
    "Prefix": """@inproceedings{li2021prefix,
  title = {Prefix-Tuning: Optimizing Continuous Prompts for Generation},
  author = {Li, Xiang Lisa and Liang, Percy},
  booktitle = {Proceedings of the 59th Annual Meeting of the Association for Computational Linguistics},
  year = {2021}
}""",
}


def model_card(run: TunedRun, command: Sequence[str] = ()) -> str:
    """The text of `README.md` beside an adapter: front matter of the hub, then Markdown.

    Whatever is not recorded is left out. Of paths on this machine only the last part is told.

    Args:
        run: the delta, and the run around it if there is one.
        command: the words that made it.
    """
    facts = read_json(run.folder / "run.json") if (run.folder / "run.json").is_file() else {}
    configs = [config for config in run.saved.configs if not isinstance(config, Head)]
    kinds, base = [type(config).__name__ for config in configs], _base_name(run)
    task = _task_name(run)
    source = published_source(task) if task else None
    sections = [
        ("Base model", _table(_base(run))),
        ("Data", _table(_data(run, facts, task, source)) + _notes(facts)),
        ("Scores", _scores(run, facts)),
        ("Settings", _table(_settings(configs, run, facts))),
        ("Command", f"```bash\n{shlex.join(map(public, command))}\n```\n" if command else ""),
        ("Versions", _table(facts.get("versions", {}))),
        ("Citation", "".join(f"```bibtex\n{_PAPERS[kind]}\n```\n" for kind in kinds if kind in _PAPERS)),
    ]
    title = f"# {' and '.join(kinds)} of {base}" + (f" for {public(task)}" if task else "")
    made = "An adapter in the layout of PEFT, tuned and exported with deltatune."
    body = "".join(f"\n## {name}\n\n{text}" for name, text in sections if text)
    return f"---\n{_front_matter(run, kinds, source)}---\n\n{title}\n\n{made}\n{body}"


def public(text: str) -> str:
    """`text`, or the last part of it where it is a path that leads out of the working folder."""
    path = PureWindowsPath(text) if "\\" in text else PurePosixPath(text)
    return path.name if path.is_absolute() or path.drive or text.startswith(("..", "~")) else text


def _base_name(run: TunedRun) -> str:
    return public(str(run.saved.base["name"]))


def _task_name(run: TunedRun) -> str | None:
    return run.saved.about.get("task") or (run.settings.get("task") or {}).get("task")


def _front_matter(run: TunedRun, kinds: Sequence[str], source: Mapping[str, str] | None) -> str:
    base, metric = run.saved.base, _METRICS.get(str(run.saved.about.get("metric")))
    # A commit is known of models of the hub alone; what a folder is called says nothing there.
    values = {
        "base_model": base["name"] if base.get("commit") else None,
        "library_name": "peft",
        "tags": ["deltatune", *map(str.lower, kinds), *([base["type"]] if base.get("type") else [])],
        "datasets": [source["hub"]] if source and "hub" in source else None,
        "metrics": [metric] if metric else None,
    }
    return yaml.safe_dump({key: value for key, value in values.items() if value}, sort_keys=False, allow_unicode=True)


def _base(run: TunedRun) -> Iterator[tuple[str, Any]]:
    base = run.saved.base
    yield "name", _base_name(run)
    yield "revision", (run.settings.get("backbone") or {}).get("revision")
    yield "commit", base.get("commit")
    yield "architecture", base.get("type")
    yield "sha256 of its tensors", base["digest"]


def _data(
    run: TunedRun, facts: Mapping[str, Any], task: str | None, source: Mapping[str, str] | None
) -> Iterator[tuple[str, Any]]:
    data, choice = facts.get("data", {}), run.settings.get("task") or {}
    yield "task", public(task) if task else None
    yield "labels", ", ".join(run.labels or ())
    yield "source", " ".join(source[key] for key in ("hub", "config") if key in source) if source else None
    yield "licence", source.get("licence") if source else None
    yield "examples", ", ".join(f"{split} {data[split]:,}" for split in ("train", "dev", "test") if data.get(split))
    yield "shots", choice.get("shots")
    yield "seed of the sample", choice.get("sample_seed") if choice.get("shots") is not None else None
    yield "sha256 of the examples", data.get("digest") or run.saved.about.get("data_digest")


def _notes(facts: Mapping[str, Any]) -> str:
    return "".join(f"\nNote: {note}.\n" for note in facts.get("notes", ()))


def _scores(run: TunedRun, facts: Mapping[str, Any]) -> str:
    """Of the weights at hand: those of a run are not those of its snapshots."""
    if "scores" not in facts or run.saved.path != run.folder / "delta":
        return ""
    lines = ["| split | metric | value | standard error | examples |", "|---|---|---|---|---|"]
    for split, found in facts["scores"].items():
        value, error = (("" if found[key] is None else f"{found[key]:.4f}") for key in ("value", "stderr"))
        lines.append(f"| {split} | {found['metric']} | {value} | {error} | {found['n']:,} |")
    train = facts.get("config", {}).get("train", {})
    seeds = {
        "initial values": facts.get("config", {}).get("init_seed"),
        "order of examples": train.get("data_seed"),
        "dropout": train.get("dropout_seed"),
    }
    told = ", ".join(f"{name} {seed}" for name, seed in seeds.items() if seed is not None)
    return "\n".join(lines) + "\n" + (f"\nSeeds: {told}.\n" if told else "") + _over_seeds(run)


def _over_seeds(run: TunedRun) -> str:
    """What the repetitions of this run in its grid say."""
    file = run.folder.parent / "grid.json"
    grid = read_json(file) if file.is_file() else {}
    own = next((item for item in grid.get("runs", ()) if item["name"] == run.folder.name), None)
    cell = next((item for item in grid.get("cells", ()) if own and item["cell"] == own["cell"]), None)
    if cell is None or any(not cell[split] or cell[split]["n"] < 2 for split in ("dev", "test")):
        return ""
    seeds = ", ".join(str(item["seed"]) for item in grid["runs"] if item["cell"] == cell["cell"] and item["status"] == "finished")
    told = ", ".join(f"{split} {cell[split]['mean']:.4f} ± {cell[split]['deviation']:.4f}" for split in ("dev", "test"))
    return f"\nMean and standard deviation over the seeds {seeds}: {told}.\n"


def _settings(configs: Sequence[DeltaConfig], run: TunedRun, facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for config in configs:
        for name, value in config.describe().items():
            yield "delta" if name == "kind" else name, ", ".join(map(str, value)) if isinstance(value, list) else value
    settings = facts.get("config", {})
    train = settings.get("train", {})
    yield "trainable scalars", sum(facts["trainable"].values()) if "trainable" in facts else None
    yield "optimizer", train.get("optimizer", {}).get("name")
    yield "learning rate", settings.get("learning_rate")
    yield "epochs" if train.get("epochs") is not None else "updates", train.get("epochs") or train.get("steps")
    yield "examples in an update", train["batch_size"] * train["accumulation"] if "batch_size" in train else None
    yield "precision", train.get("precision")
    yield "longest input in tokens", (run.settings.get("task") or {}).get("max_length")
    yield "weights kept", {"best": "the best on dev", "last": "the last"}.get(str(train.get("select")))
    yield "of update", run.saved.about.get("step")


def _table(rows: Mapping[str, Any] | Iterator[tuple[str, Any]]) -> str:
    items = rows.items() if isinstance(rows, Mapping) else rows
    lines = [f"| {name} | {_shown(value)} |" for name, value in items if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n" if lines else ""


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
