"""Whether an upgraded base still reads texts as the old one did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltatune.core.errors import DeltatuneError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


@dataclass(frozen=True)
class Reading:
    """How two tokenizers compare.

    Args:
        status: equal; extended (every old token keeps its id, new ones came); changed (an old token has another id or is gone, or
            a special token is another).
        added: tokens that only the new one has.
        said: one sentence.
    """

    status: Literal["equal", "extended", "changed"]
    added: int
    said: str


def compare(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, texts: Sequence[str] = ()) -> Reading:
    """Compare vocabularies, special ids, and how both read `texts`."""
    before, after = old.get_vocab(), new.get_vocab()
    moved = [token for token, number in before.items() if after.get(token) != number]
    added = len(after.keys() - before.keys())
    if moved:
        token = min(moved, key=lambda token: before[token])
        said = f"{len(moved):,} of {len(before):,} old tokens have another id or none"
        return Reading("changed", added, f"{said} ('{token}': {before[token]}, now {after.get(token, 'no id')})")
    for name in _SPECIAL:
        ids = [getattr(side, f"{name}_token_id", None) for side in (old, new)]
        if ids[0] != ids[1]:
            return Reading("changed", added, f"the {name} token was id {ids[0]} and is {ids[1]}")
    apart = sum(old(text)["input_ids"] != new(text)["input_ids"] for text in texts)
    read = f"; {apart:,} of {len(texts):,} texts are read as other tokens" if texts else ""
    if added:
        return Reading("extended", added, f"extended by {added:,} tokens, the old ones keep their ids{read}")
    return Reading("equal", 0, f"equal vocabulary of {len(before):,} tokens and equal special ids{read}")


def require_readable(reading: Reading, new: str) -> None:
    """Require that old weights still mean what they meant.

    Raises:
        DeltatuneError: the tokenizer changed beyond an extension.
    """
    if reading.status == "changed":
        raise DeltatuneError(f"model {new}: its tokenizer changed: {reading.said}; old deltas cannot be used on it, tune again")
