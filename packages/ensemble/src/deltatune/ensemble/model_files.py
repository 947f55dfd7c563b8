"""Whole models averaged without loading any of them: one tensor of each file in memory at a time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from deltatune.core.checkpoint import open_tensors
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import replacing, write_json
from deltatune.core.weights import weighted_sum

_SIDE_FILES = ("*.json", "*.txt", "*.model", "merges.txt")


def is_model(path: Path) -> bool:
    """Whether `path` is a model folder with safetensors."""
    return (path / "config.json").is_file()


@dataclass(frozen=True)
class Stored:
    """A tensor of a model on disk.

    Args:
        path: the file that holds it.
        name: its name there.
        shape: its shape.
    """

    path: Path
    name: str
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """Its values; the file is opened for it alone, since what was read of a file stays in memory as long as it is open."""
        with open_tensors(self.path) as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor


def tensors_of(folder: Path) -> dict[str, Stored]:
    """Name -> where the tensor is, over all parts of the model.

    Raises:
        DeltatuneError: no safetensors there.
    """
    found: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open_tensors(path) as file:
            found |= {name: Stored(path, name, tuple(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
    if not found:
        raise DeltatuneError(f"{folder}: no safetensors there; save the model with safetensors first")
    return found


def merge_models(folders: Sequence[Path], coefficients: Sequence[float], out_dir: Path) -> int:
    """Write the weighted sum of models of one architecture as a model folder; configuration and tokenizer are the first's.

    Integer buffers are those of the first. The result is held in memory once, in the types that the first model has.

    Returns:
        Number of tensors.

    Raises:
        DeltatuneError: other names or shapes, or a folder in the way.
    """
    if out_dir.exists() and any(out_dir.iterdir()):
        raise DeltatuneError(f"--out_dir {out_dir} is not an empty folder; choose another")
    models = [tensors_of(folder) for folder in folders]
    for folder, model in zip(folders, models, strict=True):
        if set(model) != set(models[0]):
            odd = sorted(set(model) ^ set(models[0]))[0]
            raise DeltatuneError(f"merge: {folder} and {folders[0]} do not both hold {odd}; take models of one architecture")
    result = {}
    for name, stored in models[0].items():
        shapes = {model[name].shape for model in models}
        if len(shapes) > 1:
            raise DeltatuneError(f"merge: {name} has shapes {', '.join(map(str, sorted(shapes)))}; take models of one size")
        first = stored.read()
        if not first.is_floating_point():
            result[name] = first
            continue
        result[name] = weighted_sum((model[name].read() for model in models), coefficients).to(first.dtype)
    parts = [{"model": folder.as_posix(), "coefficient": value} for folder, value in zip(folders, coefficients, strict=True)]
    with replacing(out_dir) as target:
        target.mkdir()
        for pattern in _SIDE_FILES:
            for path in folders[0].glob(pattern):
                if not path.name.endswith(".index.json"):
                    shutil.copy(path, target / path.name)
        save_file(result, target / "model.safetensors", metadata={"format": "pt"})
        write_json(target / "merge.json", {"combined": parts})
    return len(result)
