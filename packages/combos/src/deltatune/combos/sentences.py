"""Sentence vectors, for choosing demonstrations that are like the query."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from deltatune.core.backbone import Device, tensors_digest
from deltatune.core.data import Example
from deltatune.core.errors import DeltatuneError
from deltatune.core.files import replacing
from deltatune.core.loading import pick_device, quiet, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def joined(example: Example) -> str:
    """The texts of an example as one, a space between them."""
    return " ".join(example.texts)


def encoder(folder: str, device: Device = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Any encoder of transformers with its tokenizer.

    Raises:
        DeltatuneError: none there, or the device asked for is not there.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        with quiet():  # an encoder saved without pooler gets one, which the mean does not use
            place = resolve(folder)
            model = AutoModel.from_pretrained(place, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DeltatuneError(f"--encoder {folder}: no model with a tokenizer there ({str(error).splitlines()[0]})") from error
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return model.to(pick_device(device)).eval(), tokenizer


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


def digest_of(model: PreTrainedModel) -> str:
    """What tells two encoders apart: `tensors_digest` of the weights that `vectors` uses."""
    # a pooler that the checkpoint lacks has new values at each loading
    return tensors_digest(item for item in model.named_parameters() if not item[0].startswith("pooler."))


def key_of(text: str) -> int:
    """What a text is found by: 63 bits of its digest."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") >> 1


def write_vectors(path: Path, texts: Sequence[str], found: NDArray[np.float32], about: Mapping[str, str]) -> None:
    """Vectors (N, d) of texts as safetensors: `vectors`, `keys` (N,) int64, and `about` as its metadata."""
    keys = np.array([key_of(text) for text in texts], dtype=np.int64)
    with replacing(path) as target:
        save_file({"vectors": np.ascontiguousarray(found), "keys": keys}, target, dict(about))


def about_vectors(path: Path) -> dict[str, str]:
    """The metadata of a file of vectors.

    Raises:
        DeltatuneError: it is damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DeltatuneError(f"{path}: no file of sentence vectors ({error}); embed the task again") from error


def about_folder(folder: Path) -> dict[str, str]:
    """What all files of vectors in a folder say of themselves: encoder, its digest, digest of the data.

    Raises:
        DeltatuneError: nothing there, or of several encoders.
    """
    files = sorted(folder.glob("*.safetensors"))
    abouts = [{name: text for name, text in about_vectors(path).items() if name != "split"} for path in files]
    if not abouts:
        raise DeltatuneError(f"--demos.vectors {folder}: no sentence vectors there; make them with deltatune-combos embed")
    if any(about != abouts[0] for about in abouts):
        raise DeltatuneError(f"--demos.vectors {folder}: vectors of several encoders or tasks; embed into an empty folder")
    return abouts[0]


@dataclass(frozen=True)
class Vectors:
    """The sentence vectors of a task's examples, found by their texts.

    Args:
        folder: of `embed`.
        about: encoder, digest of the encoder and digest of the data.
        by_key: key of a text -> its vector (d,).
    """

    folder: Path
    about: Mapping[str, str]
    by_key: Mapping[int, NDArray[np.float32]] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> Vectors:
        """What `embed` has written.

        Raises:
            DeltatuneError: nothing there, or of several encoders.
        """
        about, found = about_folder(folder), dict[int, NDArray[np.float32]]()
        for path in folder.glob("*.safetensors"):
            held = load_file(path)
            found.update(zip(held["keys"].tolist(), held["vectors"], strict=True))
        return cls(folder, about, found)

    def of(self, example: Example) -> NDArray[np.float32]:
        """The vector of an example (d,).

        Raises:
            DeltatuneError: it has none.
        """
        found = self.by_key.get(key_of(joined(example)))
        if found is None:
            raise DeltatuneError(
                f"example {example.id} has no sentence vector in {self.folder}; embed the same task, with all its examples"
            )
        return found
