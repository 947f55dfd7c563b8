"""What pre-training reads: documents, each with how likely its words are to be hidden."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    Args:
        text: of any length.
        weights: for each word of the text (between white space) how likely it is to be hidden, in [0, 1]; None leaves that to
            whoever hides words.
    """

    text: str
    weights: tuple[float, ...] | None = None
