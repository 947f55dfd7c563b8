"""Do runs that differ only in their seed go faster through one batched pass than one after the other?

    uv run python benchmarks/batched_seeds.py --records docs/records/batched_seeds.jsonl

Forward and backward of the built-in encoder for several sets of a delta's weights, each with its own batch: in turn, and as one
call of `torch.func.vmap` over the stacked weights and batches. The ways take turns; the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from steps import write_records
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from deltatune.core.backbone import BackboneConfig
from deltatune.core.delta import DeltaConfig, Full, Houlsby, LoRA, Prefix, attach
from deltatune.core.loading import load_backbone

DELTAS: tuple[DeltaConfig, ...] = (LoRA(rank=16), Houlsby(width=16), Prefix(length=32, width=None), Full())


def ways(delta: DeltaConfig, model: str, seeds: int, rows: int, tokens: int) -> dict[str, Callable[[], Any]]:
    """The two ways to pass `seeds` batches of `rows` texts of `tokens` tokens."""
    tuned = attach(load_backbone(BackboneConfig(model), num_labels=4), delta, generator=torch.Generator().manual_seed(0))
    tuned.train()
    weights = {name: tensor for name, tensor in tuned.named_parameters() if tensor.requires_grad}
    ids, labels = torch.randint(5, 200, (seeds, rows, tokens)), torch.randint(0, 4, (seeds, rows))
    # A mask of four dimensions is passed on as it is; the model would look into one of two, which vmap does not allow.
    mask = torch.zeros(seeds, rows, 1, tokens, tokens)

    def in_turn() -> None:
        for i in range(seeds):
            loss = cross_entropy(tuned({"input_ids": ids[i], "attention_mask": mask[i]}), labels[i])
            torch.autograd.grad(loss, list(weights.values()))

    def loss_of(own: dict[str, Tensor], ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(functional_call(tuned, own, ({"input_ids": ids, "attention_mask": mask},)), labels)

    stacked = {name: torch.stack([tensor.detach()] * seeds) for name, tensor in weights.items()}
    batched = vmap(grad_and_value(loss_of), randomness="different")
    return {"in turn": in_turn, "batched": lambda: batched(stacked, ids, mask, labels)}


def main(
    model: str = "world/m0", seeds: int = 5, rows: int = 16, tokens: int = 32, rounds: int = 20, records: Path | None = None
) -> None:
    """Measure, and print a table.

    Args:
        model: an encoder.
        seeds: sets of weights.
        rows: texts in a batch.
        tokens: of a text.
        rounds: of both ways.
        records: also write one line for each delta.
    """
    warnings.filterwarnings("ignore", category=UserWarning)  # vmap says where it falls back to a loop
    lines: list[dict[str, Any]] = []
    print(f"{torch.get_num_threads()} threads\n| delta | {seeds} in turn, ms | batched, ms | ratio |\n|---|---|---|---|")
    for delta in DELTAS:
        both = ways(delta, model, seeds, rows, tokens)
        found: dict[str, list[float]] = {name: [] for name in both}
        for number in range(rounds + 2):
            for name, way in both.items():
                began = time.perf_counter()
                way()
                if number >= 2:  # the first rounds allocate
                    found[name].append(1e3 * (time.perf_counter() - began))
        turn, batched = (statistics.median(times) for times in found.values())
        print(f"| {type(delta).__name__} | {turn:.0f} | {batched:.0f} | {turn / batched:.2f} |", flush=True)
        lines.append({"delta": type(delta).__name__, "model": model, "seeds": seeds, "rows": rows, "tokens": tokens,
                      "threads": torch.get_num_threads(), "milliseconds": found})  # fmt: skip
    if records is not None:
        write_records(records, lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
