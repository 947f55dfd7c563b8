"""The average of many deltas, and of whole models, in two ways, each in a process of its own: for `ensemble_speed.py`."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from steps import resident

from deltatune.core import checkpoint
from deltatune.ensemble.merging import merge, open_part
from deltatune.ensemble.model_files import merge_models


def deltas_streamed(paths: list[Path], out: Path) -> None:
    """The package's average of deltas."""
    checkpoint.write(out, merge([open_part(path) for path in paths], [1 / len(paths)] * len(paths)))


def deltas_loaded(paths: list[Path], out: Path) -> None:
    """All deltas first, then the average."""
    states = [checkpoint.read(path) for path in paths]
    names = [name for name in states[0].weights if name not in states[0].head]
    mean = {name: torch.stack([state.weights[name] for state in states]).mean(0) for name in names}
    checkpoint.write(out, checkpoint.Saved(mean, states[0].configs, states[0].base))


def models_streamed(paths: list[Path], out: Path) -> None:
    """The package's average of models."""
    merge_models(paths, [1 / len(paths)] * len(paths), out)


def models_loaded(paths: list[Path], out: Path) -> None:
    """All models first, then the average."""
    states = [load_file(path / "model.safetensors") for path in paths]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point() else first
        for name, first in states[0].items()
    }
    out.mkdir()
    save_file(mean, out / "model.safetensors")


WAYS = {"deltas": (deltas_streamed, deltas_loaded), "models": (models_streamed, models_loaded)}


def merging(section: str, paths: list[Path], scratch: Path, rounds: int) -> list[dict[str, Any]]:
    """Seconds and memory of both ways to average, each in a process of its own."""
    names = ("one tensor at a time", "all loaded first")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    outs = [scratch / "merged" / section / str(number) for number in range(2)]
    for _ in range(rounds):
        for name, function, out in zip(names, WAYS[section], outs, strict=True):
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            queue: Any = multiprocessing.get_context("spawn").SimpleQueue()
            process = multiprocessing.get_context("spawn").Process(target=alone, args=(function, paths, out, queue))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{section}, {name}: the process ended with {process.exitcode}")
            found[name].append(queue.get())
    results = [load_file(next(out.glob("*.safetensors"))) for out in outs]
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], atol=1e-6, rtol=1e-5)
    about = {"section": section, "what": f"{len(paths)} {section}", "values": sum(t.numel() for t in results[0].values())}
    return [
        {**about, "way": way, "seconds": [one[0] for one in taken], "megabytes": [one[1] for one in taken]}
        for way, taken in found.items()
    ]


def alone(function: Callable[[list[Path], Path], None], paths: list[Path], out: Path, queue: Any) -> None:
    """Seconds and the growth of the peak of this process, in MB, into `queue`."""
    torch.ones(8).sum()
    before, began = resident("VmRSS"), time.perf_counter()
    function(paths, out)
    queue.put((time.perf_counter() - began, (resident("VmHWM") - before) / 1e6))
