"""`deltatune prepare`: write public data sets in the published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deltatune.core.cli.output import output
from deltatune.core.data.prepare import PrepareConfig
from deltatune.core.data.prepare import prepare as write
from deltatune.core.data.recipe import Layout
from deltatune.core.run import versions


def prepare(
    task: str,
    format: Layout,
    out_dir: Path,
    source: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    k: int | None = None,
    seed: int = 42,
    test: Literal["published", "validation"] = "published",
    overwrite: bool = False,
) -> None:
    """Write a public data set as the files that the published programs, and deltatune, read.

    Writes OUT_DIR/TASK/ with training, development and (where there are labels) test files, and prepare.json with the number of
    rows and the sha256 of each. docs/data.md lists the tasks and says how to write a recipe for another.

    Args:
        task: a built-in name such as glue/rte, boolq or chemprot, or a YAML recipe.
        format: glue (tab-separated, GLUE's columns), gym (input and answers between tabs) or jsonl (objects with text and
            label).
        out_dir: the folder of task folders.
        source: a data set of the hub, a folder that datasets saved, a folder of train, validation and test files (.csv, .json,
            .jsonl), or one such file; by default the data set of the hub that the recipe names.
        subset: of a data set of the hub, the configuration; by default the one that the recipe names.
        revision: of a data set of the hub.
        k: of format gym, draw a few-shot sample of k examples of each class (of a task without classes, k in all).
        seed: of the sample.
        test: of a sample, published for the test part of the full data set, validation for the whole validation split.
        overwrite: replace files that hold something else.
    """
    config = PrepareConfig(task, format, source, revision, subset, k, seed, test)
    for file in write(config, out_dir, versions(), overwrite):
        left_out = f" ({file.left_out} left out)" if file.left_out else ""
        output().print(f"{file.path}  {file.rows} rows{left_out}  sha256 {file.sha256}", soft_wrap=True)
