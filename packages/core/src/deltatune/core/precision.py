"""Whether a machine gains from bfloat16."""

from __future__ import annotations

from functools import cache
from logging import getLogger

import torch


def computes_in_bf16(device: str) -> bool:
    """Whether bfloat16 saves time on devices of the type `device`; a CPU without instructions for it takes ten times longer."""
    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def hint_at_slow_bf16(device: str) -> None:
    """Say once, on standard error, where bfloat16 only costs time."""
    if not computes_in_bf16(device):
        getLogger("deltatune").warning("note: this CPU has no bfloat16 instructions; fp32 is several times faster here")
