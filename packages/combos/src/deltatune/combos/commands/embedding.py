"""`embed`: sentence vectors of a task's examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltatune.combos.sentences import about_vectors, digest_of, joined, vectors, write_vectors
from deltatune.combos.sentences import encoder as load_encoder
from deltatune.core.backbone import Device
from deltatune.core.cli.output import output
from deltatune.core.cli.results import Found, Kept
from deltatune.core.cli.runner import SavedConfig
from deltatune.core.tune_config import TaskChoice


def embed(
    task: str,
    out_dir: Path,
    config_yaml: SavedConfig,
    encoder: str,
    data_dir: Path | None = None,
    max_length: int = 256,
    batch_size: int = 64,
    device: Device = "auto",
    tag: str = "",
    overwrite: bool = False,
) -> None:
    """Make sentence vectors of all examples of a task, for demonstrations that are like the query (--demos.vectors OUT_DIR).

    A vector is the mean over the last states of an encoder. OUT_DIR/SPLIT.safetensors holds those of a split, with the digests of
    encoder and data; the command given again makes those that are missing. Samples of --shots find their vectors here too.

    Args:
        task: built-in name, or a YAML task file.
        out_dir: folder of the vectors.
        config_yaml: filled in by the program.
        encoder: folder, model of the world or hub name of any encoder.
        data_dir: root of task folders, or the folder that holds the task's files.
        max_length: longest text in tokens.
        batch_size: texts in one pass.
        device: where to compute.
        tag: a word of yours that goes into the records.
        overwrite: throw away vectors that are there.
    """
    loaded = TaskChoice(task, data_dir).load()
    model, tokenizer = load_encoder(encoder, device)
    about = {"encoder": encoder, "encoder_digest": digest_of(model), "data": loaded.digest, "max_length": str(max_length)}

    def work() -> Found:
        counts: dict[str, int] = {}
        for split in ("train", "dev", "test"):
            texts, path = [joined(example) for example in getattr(loaded, split)], out_dir / f"{split}.safetensors"
            counts[split] = len(texts)
            own = {**about, "split": split}
            if texts and not (path.is_file() and about_vectors(path) == own):
                write_vectors(path, texts, vectors(texts, model, tokenizer, max_length, batch_size), own)
        facts: dict[str, Any] = {"task": task, "examples": counts, "width": int(model.config.hidden_size)}
        return facts, [{"kind": "vectors", **about, **facts}]

    found = Kept(out_dir, config_yaml, overwrite, tag, "deltatune-combos").once("embed", about, work)
    counts = ", ".join(f"{split} {count:,}" for split, count in found["examples"].items())
    output().print(f"{found['width']} numbers for each example ({counts}) in {out_dir}", soft_wrap=True)
