"""The deltas: how a small set of weights is attached to a frozen model."""

from deltatune.core.delta.base import Batch, Delta, DeltaConfig
from deltatune.core.delta.bitfit import BitFit
from deltatune.core.delta.houlsby import Houlsby
from deltatune.core.delta.lora import LoRA
from deltatune.core.delta.prefix import Prefix
from deltatune.core.delta.soft_prompt import SoftPrompt
from deltatune.core.delta.tuned import Tuned, attach, forward_with
from deltatune.core.delta.values import Full, Head, Modules

DELTAS: dict[str, type[DeltaConfig]] = {
    kind.__name__: kind for kind in (LoRA, Houlsby, Prefix, SoftPrompt, BitFit, Full, Modules, Head)
}

__all__ = [
    "DELTAS",
    "Batch",
    "BitFit",
    "Delta",
    "DeltaConfig",
    "Full",
    "Head",
    "Houlsby",
    "LoRA",
    "Modules",
    "Prefix",
    "SoftPrompt",
    "Tuned",
    "attach",
    "forward_with",
]
