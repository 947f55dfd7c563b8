"""What `adapter_config.json` of a delta folder says: to PEFT where PEFT computes the same, else only which kind it is."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import commonpath
from typing import TYPE_CHECKING, Any

from deltatune.core.delta import Head, LoRA

if TYPE_CHECKING:
    from deltatune.core.checkpoint import Saved


def adapter_config(saved: Saved) -> dict[str, Any]:
    """The content of the file; a `peft_type` that begins with DELTATUNE is not PEFT's."""
    kinds = [config for config in saved.configs if not isinstance(config, Head)]
    if len(kinds) == 1 and isinstance(kinds[0], LoRA):
        return lora_config(kinds[0], saved)
    name = "_".join(type(config).__name__.upper() for config in kinds) or "HEAD"
    return {"peft_type": f"DELTATUNE_{name}", "base_model_name_or_path": saved.base["name"]}


def lora_config(config: LoRA, saved: Saved) -> dict[str, Any]:
    """The `adapter_config.json` with which PEFT computes the same logits."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": saved.base["name"],
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted({name.partition(".lora_A.")[0] for name in saved.weights if ".lora_A." in name}),
        "bias": "none",
        "modules_to_save": head_modules(saved.head) or None,
        "inference_mode": True,
        "task_type": peft_task(saved),
    }


def peft_task(saved: Saved) -> str | None:
    """PEFT's name of the task; None where PEFT has none (masked-LM prompting) or would expect a head that is not there."""
    return {"head": "SEQ_CLS" if saved.head else None, "text": "SEQ_2_SEQ_LM"}.get(saved.base["form"])


def head_modules(names: Iterable[str]) -> list[str]:
    """The fewest modules that hold the head's parameters `names`: one for each first part of a name."""
    groups: dict[str, list[str]] = {}
    for name in names:
        path = name.rpartition(".")[0]
        groups.setdefault(path.partition(".")[0], []).append(path.replace(".", "/"))
    return [commonpath(paths).replace("/", ".") for paths in groups.values()]
