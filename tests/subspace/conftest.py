"""The tiny T5 of the reference vectors with its subspace, and tiny folders that commands run on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.core.backbone import Backbone, untie, wrap
from deltatune.core.delta import Houlsby, LoRA, Prefix
from deltatune.core.weights import unflatten
from deltatune.subspace import cli
from deltatune.subspace.approximation import Approximation, Sources
from deltatune.subspace.objective import Objective
from deltatune.subspace.projections import Projection
from deltatune.subspace.space import Subspace
from deltatune.subspace.views import attach_each

EXAMPLE = Path(__file__).parents[2] / "examples/reviews"
KINDS = ("adapter", "lora", "prefix")
FIELDS = {
    "encoder_weight": "encoder_{}.weight",
    "encoder_bias": "encoder_{}.bias",
    "encoder_low_weight": "encoder_{}_low.weight",
    "encoder_low_bias": "encoder_{}_low.bias",
    "decoder_weight": "decoder_{}.weight",
}


def loss_of(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)


@dataclass
class Published:
    """The model, batch, projections, initial values and solutions of the reference vectors."""

    backbone: Backbone
    batch: dict[str, Tensor]
    projections: dict[str, Projection]
    starts: dict[str, Tensor]
    solutions: dict[str, Tensor]

    def approximation(self, tasks: int = 1, per: str = "batch", **objective) -> Approximation:
        """The subspace on this model; with several tasks, solution i is that of task i."""
        configs = {"adapter": (Houlsby(width=6, bias=False),), "lora": (LoRA(rank=5),), "prefix": (Prefix(length=10, width=10),)}
        tuned = attach_each(self.backbone, configs)
        inits = {name: unflatten(self.starts[name], tuned[name].weights(), input_major=True) for name in KINDS}
        space = Subspace(configs, inits, self.projections, {}, Objective(**objective), {})
        solved = [self.solutions[name] - self.starts[name] for name in KINDS]
        vectors = [solved] if tasks == 1 else [[own[i : i + 1] for own in solved] for i in range(tasks)]
        form = SimpleNamespace(loss=loss_of)
        return Approximation(space, tuned, Sources(["t"] * tasks, [form] * tasks, vectors), by_tokens=per == "batch")


@pytest.fixture
def published(golden) -> Published:
    archive, size = golden("subspace", "t5_forward.npz"), golden("subspace", "flatten_layout.json")["config"]
    stage1 = golden("subspace", "stage1_single.npz")
    config = {"vocab_size": size["vocab"], "d_model": size["d_model"], "d_kv": size["d_kv"], "d_ff": size["d_ff"]}
    config |= {"num_heads": size["heads"], "num_layers": size["L"], "relative_attention_num_buckets": size["buckets"]}
    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    model = untie(T5ForConditionalGeneration(T5Config(feed_forward_proj="gated-gelu", **special, **config)))
    base = {key.removeprefix("base/"): torch.tensor(archive[key]) for key in archive.files if key.startswith("base/")}
    report = model.load_state_dict(base, strict=False)
    assert not report.unexpected_keys
    names = ("input_ids", "attention_mask", "labels", "decoder_attention_mask")
    projections = {
        kind: Projection(**{key: torch.tensor(stage1[f"proj/{name.format(kind)}"]) for key, name in FIELDS.items()})
        for kind in KINDS
    }
    return Published(
        wrap(model),
        {name: torch.tensor(archive[f"in/{name}"]) for name in names},
        projections,
        {kind: torch.tensor(stage1[f"init/{kind}"]) for kind in KINDS},
        {kind: torch.tensor(stage1[f"theta_abs/{kind}"]) for kind in KINDS},
    )


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Path:
    """A folder with `model`, two tasks, `init`, `original/TASK/DELTA`, and `space`: a subspace of the first task."""
    folder = tmp_path_factory.mktemp("bench")
    for name, count in {"train": 16, "dev": 8, "test": 9}.items():
        lines = (EXAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
        (folder / f"{name}2.jsonl").write_text("".join(lines[-count:]), encoding="utf-8")
    shutil.copytree(EXAMPLE / "model", folder / "model")
    text = (EXAMPLE / "task.yaml").read_text(encoding="utf-8")
    (folder / "first.yaml").write_text(text.replace("name: reviews", "name: first"), encoding="utf-8")
    other = "".join(f"{part}: {part}2.jsonl\n" for part in ("train", "dev", "test"))
    (folder / "second.yaml").write_text(text.replace("name: reviews", "name: second") + other, encoding="utf-8")
    words = ["make-init", "--model", folder / "model", "--form", "prompt", "--out_dir", folder / "init"]
    words += ["--deltas+", "Houlsby", "--deltas.width", 2, "--deltas+", "LoRA", "--deltas.rank", 1]
    words += ["--deltas+", "Prefix", "--deltas.length", 2, "--deltas.width", 2]
    assert cli.main(list(map(str, words))) == 0
    words = ["train-delta", "--init", folder / "init", "--tasks", f"[{folder / 'first.yaml'}, {folder / 'second.yaml'}]"]
    words += ["--out_dir", folder / "original", "--lr", 0.01, "--train.steps", 4, "--train.eval_every", 2, "--device", "cpu"]
    assert cli.main(list(map(str, words))) == 0
    words = ["approximate", "--init", folder / "init", "--solutions", f"[{folder / 'original'}]", "--out_dir", folder / "space"]
    words += ["--tasks", f"[{folder / 'first.yaml'}]", "--k", 3, "--train.steps", 4, "--train.eval_every", 2, "--device", "cpu"]
    assert cli.main(list(map(str, words))) == 0
    return folder
