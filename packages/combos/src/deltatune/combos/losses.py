"""The published loss of a regression asked with two label words, beside the right one in the core's `PromptFormat`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def published_regression_loss(logits: Tensor, values: Tensor, low: float, high: float) -> Tensor:
    """Mean over examples and both words of exp(t_c) (t_c - log p_c), t = (1 - y, y), y the value scaled to [0, 1]; a scalar.

    The published program passes probabilities where its loss takes logarithms (D5), so that its optimum is a p_1 in
    [0.27, 0.73]: values are pressed towards the middle, while their order stays. Kept to measure what that does.

    Args:
        logits: of the words for the low and the high end (B, 2).
        values: (B,).
        low: lowest value.
        high: highest value.
    """
    share = (values - low) / (high - low)
    target = torch.stack([1 - share, share], dim=1).to(logits.dtype)
    return (target.exp() * (target - log_softmax(logits, dim=1))).mean()
