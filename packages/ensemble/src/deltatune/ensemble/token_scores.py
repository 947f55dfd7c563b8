"""Scores from predictions and answers: loss, EL2N, cosine of logits and labels, KL divergence.

Every sum is over answer tokens; an answer of a classifier is one token among its classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

IGNORED = -100
_EPS = 1e-6
NAMES = ("loss", "el2n", "label_cosine")


def token_sums(logits: Tensor, labels: Tensor, reference: Tensor | None = None) -> dict[str, Tensor]:
    """The sums over the tokens of each example, (B,) float64.

    Args:
        logits: (B, L, C), or (B, C) with one token an example.
        labels: (B, L) or (B,) int64; -100 is no token.
        reference: logits of the delta tuned on the target, of the same shape, for `kl`.

    Returns:
        tokens: their number; loss: -log p(y); el2n: |p - onehot(y)|; label_cosine: p(y) / |p|; kl: KL(reference || p) in nats,
        with the tokens of the vocabulary at which either is exactly 0 left out and both renormalised.
    """
    logits, labels = _as_tokens(logits, labels)
    real = labels != IGNORED
    log_p = log_softmax(logits.float(), dim=-1)
    at_label = labels.clamp(min=0).unsqueeze(-1)
    log_py = log_p.gather(-1, at_label).squeeze(-1)
    p = log_p.exp()
    py, length = p.gather(-1, at_label).squeeze(-1), p.norm(dim=-1)
    found = {
        "tokens": torch.ones_like(log_py),
        "loss": -log_py,
        # The entries but y's, and 1 - p(y): no difference of nearly equal numbers.
        "el2n": (p.scatter(-1, at_label, 0.0).square().sum(-1) + (1 - py).square()).sqrt(),
        "label_cosine": py / length.clamp(min=_EPS),
    }
    if reference is not None:
        found["kl"] = _divergence(_as_tokens(reference, labels)[0], logits)
    return {name: torch.where(real, value.double(), 0.0).sum(-1) for name, value in found.items()}


def _as_tokens(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if labels.dim() == 1:
        labels = labels.unsqueeze(1)
    return (logits.unsqueeze(1) if logits.dim() == 2 else logits), labels


def _divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(P || Q) for each position: P of `reference`, Q of `logits`."""
    p, q = torch.softmax(reference.float(), -1), torch.softmax(logits.float(), -1)
    both = (p > 0) & (q > 0)
    p, q = (torch.where(both, x, 0.0).double() for x in (p, q))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    terms = torch.where(both, p * (torch.where(both, p, 1.0).log() - torch.where(both, q, 1.0).log()), 0.0)
    return terms.sum(-1)


@dataclass
class TokenScores:
    """Sums over the batches of one (target, source), and the scores that they give."""

    sums: dict[str, float] = field(default_factory=dict)

    def add(self, logits: Tensor, labels: Tensor, reference: Tensor | None = None) -> None:
        """Take in a batch; see `token_sums`."""
        for name, values in token_sums(logits, labels, reference).items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())

    def score(self, name: str, mean: bool = False) -> float:
        """`loss` is the mean over tokens; the others are sums over tokens as published, or means with `mean`."""
        return self.sums[name] / self.sums["tokens"] if mean or name == "loss" else self.sums[name]
