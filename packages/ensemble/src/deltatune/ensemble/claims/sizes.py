"""C5: the three deltas have one budget, counted at full size without memory for the weights."""

from __future__ import annotations

from typing import Any

from deltatune.core.claims import Context, Effects

# T5 v1.1 base, which the language-model adapted checkpoint keeps.
_T5_BASE = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12}
PUBLISHED = 1_105_920
SHARE = 0.445


def _counted() -> dict[str, int]:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from deltatune.core.backbone import untie, wrap
    from deltatune.core.delta import DeltaConfig, Houlsby, LoRA, Prefix, attach

    published: dict[str, DeltaConfig] = {
        "adapter": Houlsby(width=12, bias=False),
        "LoRA": LoRA(rank=10, alpha=16),
        "prefix": Prefix(length=120, width=24),
    }
    with torch.device("meta"):
        backbone = wrap(untie(T5ForConditionalGeneration(T5Config(feed_forward_proj="gated-gelu", **_T5_BASE))))
    found = {"backbone": sum(parameter.numel() for parameter in backbone.model.parameters())}
    for name, config in published.items():
        tuned = attach(backbone, config)
        found[name] = sum(parameter.numel() for parameter in tuned.parameters_by_name().values())
        tuned.detach()
    return found


def equal_budgets(context: Context, seed: int) -> Effects:
    """Numbers of parameters; the seed changes nothing."""
    found: dict[str, int] = context.store.get({"published sizes": PUBLISHED}, _counted)
    sizes = [found[name] for name in ("adapter", "LoRA", "prefix")]
    share = 100 * sizes[0] / (found["backbone"] + sizes[0])
    records: list[dict[str, Any]] = [{"part": name, "parameters": number} for name, number in found.items()]
    controls = {"number": float(sizes[0] - PUBLISHED), "share": share - SHARE}
    return Effects(float(max(sizes) - min(sizes)), controls, records=records)
