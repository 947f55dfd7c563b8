"""Sentence vectors, for choosing demonstrations that are like the query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from deltatune.core.backbone import Device
from deltatune.core.data import Example
from deltatune.core.errors import DeltatuneError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def joined(example: Example) -> str:
    """The texts of an example as one, a space between them."""
    return " ".join(example.texts)


def encoder(folder: str, device: Device = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Any encoder of transformers with its tokenizer.

    Raises:
        DeltatuneError: none there, or one that is no encoder.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise DeltatuneError(f"--encoder {folder}: no model with a tokenizer there ({str(error).splitlines()[0]})") from error
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return model.to(where).eval(), tokenizer


def vectors(
    texts: Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 256,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Mean over the tokens of the last states, (N, d) float32, in the order of the texts: the pooling of sentence encoders."""
    found: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            part = list(texts[start : start + batch_size])
            batch = tokenizer(part, padding=True, truncation=True, max_length=max_length, return_tensors="pt").to(model.device)
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            found.append(((states * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu())
    result: NDArray[np.float32] = torch.cat(found).numpy()
    return result
