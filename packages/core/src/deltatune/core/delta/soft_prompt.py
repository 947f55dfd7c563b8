"""Soft prompts: trained input vectors (Lester et al. 2021; combos).

A soft-prompt position is a negative token id: -(i + 1) is row i of the table P, added to position embeddings and normed like
a word. So attention masks and position ids follow from the ids, and a template may put the prompt anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deltatune.core.backbone import Backbone
from deltatune.core.delta.base import Batch, Delta, DeltaConfig, fill_normal, module_at
from deltatune.core.errors import DeltatuneError


@dataclass(frozen=True)
class SoftPrompt(DeltaConfig):
    """Trained vectors in the input sequence.

    Args:
        length: number of vectors P (published: `prompt_num`).
        position: after_first (behind the first token, which a classification head reads), start (before it, as PEFT does),
            template (only where the text already holds negative ids), or auto: start for text-to-text models, after_first for
            the others.
        init_std: standard deviation of the normal start.
    """

    length: int = 10
    position: Literal["auto", "start", "after_first", "template"] = "auto"
    init_std: float = 0.02

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.length < 1:
            raise DeltatuneError(f"soft_prompt.length must be at least 1, got {self.length}")

    @property
    def reserved_positions(self) -> int:
        """See `DeltaConfig.reserved_positions`."""
        return self.length

    def build(self, backbone: Backbone, generator: torch.Generator) -> Delta:
        """See `DeltaConfig.build`."""
        return SoftPromptDelta(self, backbone, generator)


class Table(nn.Module):
    """P (length, d)."""

    def __init__(self, shape: tuple[int, int], std: float, device: torch.device, generator: torch.Generator) -> None:
        """Draw the rows."""
        super().__init__()
        self.soft_prompt = nn.Parameter(torch.zeros(shape, device=device))
        fill_normal(self.soft_prompt, std, generator)


class SoftPromptDelta(Delta):
    """The table, and where its rows stand."""

    why_not_merged = "its positions are not weights"

    def __init__(self, config: SoftPrompt, backbone: Backbone, generator: torch.Generator) -> None:
        """Create the table beside the word embedding."""
        super().__init__(config)
        embedding = module_at(backbone.model, backbone.sites.embedding, "soft_prompt")
        if not isinstance(embedding, nn.Embedding):
            raise DeltatuneError(f"soft_prompt: {backbone.sites.embedding} is a {type(embedding).__name__}, not an embedding")
        shape = (config.length, embedding.embedding_dim)
        self.place(backbone.sites.embedding, Table(shape, config.init_std, embedding.weight.device, generator))
        auto = "start" if backbone.form == "text" else "after_first"
        self.length, self.position = config.length, auto if config.position == "auto" else config.position

    def prepare(self, batch: Batch) -> Batch:
        """Insert the prompt's ids with mask 1 and segment 0, unless the ids are there already."""
        ids = batch["input_ids"]
        if self.position == "template" or bool((ids < 0).any()):
            return batch
        at = 1 if self.position == "after_first" else 0
        rows = -torch.arange(1, self.length + 1, device=ids.device, dtype=ids.dtype).expand(ids.shape[0], -1)
        changed = {"input_ids": _insert(ids, rows, at)}
        for name, fill in (("attention_mask", 1), ("token_type_ids", 0)):
            if name in batch:
                changed[name] = _insert(batch[name], torch.full_like(rows, fill).to(batch[name].dtype), at)
        return {**batch, **changed}

    def hook(self, model: nn.Module) -> Iterable[torch.utils.hooks.RemovableHandle]:
        """Look negative ids up in the table instead of the vocabulary."""
        for path, part in self.parts():
            embedding = model.get_submodule(path)
            yield embedding.register_forward_pre_hook(_words_only)
            yield embedding.register_forward_hook(partial(_look_up, part), with_kwargs=False)


def _insert(tensor: Tensor, rows: Tensor, at: int) -> Tensor:
    return torch.cat([tensor[:, :at], rows, tensor[:, at:]], dim=1)


def _words_only(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    module.__dict__["_prompt_ids"] = args[0]
    return (args[0].clamp(min=0), *args[1:])


def _look_up(part: Any, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    ids = module.__dict__.pop("_prompt_ids")
    rows = part.soft_prompt[(-ids - 1).clamp(min=0)]  # (B, T, d)
    result: Tensor = torch.where((ids < 0).unsqueeze(-1), rows.to(output.dtype), output)
    return result
