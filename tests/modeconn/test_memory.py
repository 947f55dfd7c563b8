"""A path holds the model once and each of its ends once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deltatune.core import paths
from deltatune.modeconn.endpoints import in_one_space, open_end
from deltatune.modeconn.scenes import Where, is_whole, scene, tasks_of, without_weights
from deltatune.modeconn.sweeps import Limits, measure

NOWHERE = Where((None, None, None), "cpu", False)


class Peak(TorchDispatchMode):
    """The most bytes of tensors that are alive at once; whatever an operation reads or makes is counted, files in memory too."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                self.known[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.known = {key: item for key, item in self.known.items() if not item[0].expired()}
        now = sum(size for _, size in self.known.values())
        self.bytes = max(self.bytes, now)
        return out


def size(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * 4 for tensor in weights.values())


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("middle", [0, 1], ids=["line", "curve"])
def test_a_path_is_the_model_and_its_ends(bench, tmp_path, kind, middle):
    runs = [without_weights(open_end(bench / f"runs/{kind}-{n}")) for n in (0, 1, 0)[: 2 + middle]]
    [(choice, own)] = tasks_of(runs[:1], (), None)
    before = open_end(bench / f"runs/{kind}-0")
    tuned = before.attach(before.backbone(device="cpu"))
    trained = size(tuned.parameters_by_name())
    model = size(dict(tuned.model.named_parameters())) + (0 if kind == "full" else trained)
    largest = max(size({name: tensor}) for name, tensor in tuned.model.named_parameters())
    tuned.detach()
    del tuned, before
    with Peak() as peak:
        stage = scene(runs, choice, own, NOWHERE)
        settled = peak.bytes
        ways = {"coefficients": lambda t: (1 - t, t, 0.0)} if middle else {}
        measure(stage, paths.grid(3), Limits("dev", max_dev=1), tmp_path, **ways)
    bound = model + (2 + middle) * trained
    # One tensor more while an end is made; what a forward pass needs comes on top.
    assert bound <= settled <= bound + 2 * largest
    assert peak.bytes <= bound + 2 * largest + 250_000


def test_models_of_their_own_bases_too(bench, tmp_path):
    from deltatune.core.cli import main

    for number in (0, 1):
        assert main(["merge", "--run", str(bench / f"runs/full-{number}"), "--out_dir", str(tmp_path / str(number))]) == 0
    runs = [open_end(tmp_path / str(number)) for number in (0, 1)]
    [(choice, own)] = tasks_of(runs[:1], (str(bench / "task.yaml"),), bench)
    model = size(dict(runs[0].backbone(device="cpu").model.named_parameters()))
    assert is_whole(runs, "auto")
    with Peak() as peak:
        stage = scene(runs, choice, own, Where((None, None), "cpu", True), spend=True)
        measure(stage, paths.grid(2), Limits("dev", max_dev=1), tmp_path)
    assert 3 * model <= peak.bytes < 4 * model


@pytest.mark.parametrize("kind", ["full", "adapter", "lora", "prefix"])
def test_the_ends_are_those_of_a_model_that_loads_them(bench, kind):
    runs = [open_end(bench / f"runs/{kind}-{n}") for n in (0, 1)]
    tuned = runs[0].attach(runs[0].backbone(device="cpu"))
    [(choice, own)] = tasks_of(runs[:1], (), None)
    for wanted, found in zip(runs, scene(list(map(without_weights, runs)), choice, own, NOWHERE).ends, strict=True):
        tuned.load(wanted.saved.weights)
        plain = paths.end_of(tuned).deltas
        assert list(found.deltas) == list(plain)
        assert all(torch.equal(found.deltas[name], value) for name, value in plain.items())


def test_what_was_changed_is_not_read_again(bench):
    run = open_end(bench / "runs/lora-0")
    moved = in_one_space([run, run], NOWHERE)
    assert moved[0] is run.saved.weights
    assert all(tensor.is_meta for tensor in without_weights(run).saved.weights.values())
