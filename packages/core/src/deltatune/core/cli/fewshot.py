"""`deltatune fewshot`: draw few-shot samples, and compare files with a list of checksums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from deltatune.core.cli.output import output
from deltatune.core.data import (
    SEEDS,
    Checksums,
    Draw,
    TaskConfig,
    WrittenSample,
    builtin_task,
    read_task_file,
    verify_checksums,
    write_fewshot,
)
from deltatune.core.data.fewshot_write import SamplerName
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import read_json, write_json
from deltatune.core.run import versions


def fewshot(
    task: str | None = None,
    data_dir: Path | None = None,
    out_dir: Path | None = None,
    k: int = 16,
    seed: int | list[int] | None = None,
    order: Literal["published", "file"] = "published",
    sampler: SamplerName | None = None,
    dev_times: int = 1,
    verify: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Draw k examples of each class as the published samples were drawn.

    Writes OUT_DIR/TASK/K-SEED/ with training, development and test files, their md5 sums to OUT_DIR/checksum, and what was
    done to OUT_DIR/TASK/run.json. With --verify, files are compared with a list of
    md5 sums afterwards; without --task that is all.

    Args:
        task: a built-in name such as glue/rte, or a YAML task file.
        data_dir: the folder with the task's files, or one that holds it.
        out_dir: where to write.
        k: examples of each class.
        seed: of the sample, or a list ([13,21]) for several; by default the five published ones.
        order: published repeats the published files (CoLA's depend on the order in which the five seeds 100, 13, 21, 42, 87
            were drawn; another seed starts from the file); file always starts from the order of the file.
        sampler: kshot takes training and development examples from the training file, per-label (jsonl tasks) from the
            training and the development file, and writes train_fewK.jsonl and dev_fewK.jsonl; by default the one published
            for such files.
        dev_times: of kshot, how many times larger the development file is.
        verify: a file of md5 sums and paths; the paths are relative to --out_dir, or to the file's own folder without it.
        overwrite: replace folders that hold another sample.
    """
    if task is None:
        if verify is None:
            raise DeltatuneError("--task names what to sample, such as glue/rte (or --verify a list of checksums)")
        return _verify(verify, out_dir)
    if data_dir is None or out_dir is None:
        missing = "--data_dir, the folder with the files" if data_dir is None else "--out_dir, where to write"
        raise DeltatuneError(f"task {task} needs {missing}")
    seeds = SEEDS if seed is None else [seed] if isinstance(seed, int) else seed
    if not seeds:
        raise DeltatuneError("--seed is an empty list; give at least one number")
    config = read_task_file(Path(task)) if Path(task).suffix in (".yaml", ".yml") else builtin_task(task)
    draw = Draw(k, sampler, SEEDS if order == "published" else (), dev_times)
    written = write_fewshot(config, data_dir, out_dir, draw, seeds, overwrite)
    _note(config, draw, order, written)
    for sample in written:
        output().print(f"{sample.folder}{'' if sample.new else ' (as it was)'}", soft_wrap=True)
    return _verify(verify, out_dir, written) if verify else 0


def _note(config: TaskConfig, draw: Draw, order: str, written: Sequence[WrittenSample]) -> None:
    """Add the samples to the `run.json` beside their folders."""
    path = written[0].folder.parent / "run.json"
    before: Any = read_json(path) if path.exists() else {}
    samples = before.get("samples", {}) if isinstance(before, dict) else {}
    for sample in written:
        samples[sample.folder.name] = {
            "k": draw.k,
            "seed": sample.seed,
            "sampler": sample.sampler,
            "dev_times": draw.dev_times,
            "order": order,
            "shuffled_by": list(sample.chained),
            "source": sample.source,
        }
    write_json(path, {"what": "few-shot samples", "task": config.name, "samples": samples, "versions": versions()})


def _verify(checksums: Path, folder: Path | None, written: Sequence[WrittenSample] = ()) -> int:
    """Print how the files compare; 2 unless all are equal. After writing, only the samples written count."""
    found = verify_checksums(checksums, folder)
    if written and folder is not None:
        own = {sample.folder.relative_to(folder).as_posix() for sample in written}
        found = Checksums(*(tuple(name for name in names if name.rpartition("/")[0] in own) for names in found))
    for kind in ("different", "missing"):
        for name in getattr(found, kind):
            output().print(f"{kind}: {name}", soft_wrap=True)
    counts = f"{len(found.equal)} equal, {len(found.different)} different, {len(found.missing)} missing"
    output().print(counts, soft_wrap=True)
    return 0 if found.equal and not found.different and not found.missing else 2
