"""Automatic templates (LM-BFF): T5 fills the blanks around the label word, one output for all training examples together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from deltatune.core.batches import pad
from deltatune.core.errors import DeltatuneError
from deltatune.core.template import Sentence, Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["end", "front", "pair"]
BLANKS = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
MOST_TOKENS, MOST_INPUT = 18, 256

# Token ids of T5: a single space, "....", "..........".
FORBIDDEN = (3, 19794, 22354)
_ASK: Mapping[Kind, tuple[Sentence | str, ...]] = {
    "end": (Sentence(0, case="u"), "blank 0", "word", "blank 1"),
    "front": (".", "blank 0", "word", "blank 1", Sentence(0, leading_space=True, case="u")),
    "pair": (Sentence(0, drop_last=True), "blank 0", "word", "blank 1", Sentence(1, leading_space=True, case="l")),
}
_SHOWN: Mapping[Kind, tuple[str, str, str]] = {
    "end": ("*cls**sent_0*", "*mask*", "*sep+*"),
    "front": ("*cls*", "*mask*", "*+sent_0**sep+*"),
    "pair": ("*cls**sent-_0*", "*mask*", "*+sentl_1**sep+*"),
}


@dataclass(frozen=True)
class Vocabulary:
    """What the search must know of a text-to-text tokenizer.

    Args:
        encode: ids of a text, without special tokens.
        blank: id of `<extra_id_0>`; those of the next blanks are one lower each.
        end: id of `</s>`.
        stop: id of the token `.`.
        start: first decoder input.
        forbidden: ids that no template holds.
    """

    encode: Callable[[str], Sequence[int]]
    blank: int
    end: int
    stop: int
    start: int = 0
    forbidden: tuple[int, ...] = FORBIDDEN

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """That of a model.

        Raises:
            DeltatuneError: it has no blanks.
        """
        ids = [tokenizer.convert_tokens_to_ids(blank) for blank in BLANKS]
        if tokenizer.unk_token_id in ids or [ids[0] - number for number in range(3)] != ids:
            raise DeltatuneError(f"the tokenizer of the filling model has no {', '.join(BLANKS)}; give --filler a T5")
        known = {token: tokenizer.convert_tokens_to_ids(token) for token in ("▁", "....", "..........", ".")}
        forbidden = tuple(known[token] for token in known if token != "." and known[token] != tokenizer.unk_token_id)
        start = model.config.decoder_start_token_id or 0

        def encode(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

        return cls(encode, ids[0], int(tokenizer.eos_token_id), known["."], start, forbidden)


def asked(kind: Kind, texts: Sequence[str], word: str, vocabulary: Vocabulary) -> list[int]:
    """One training example as the search shows it to T5: its texts, and its label word between two blanks.

    Of one text, the last (`end`) or first (`front`) 256 tokens of the whole are kept.

    Args:
        kind: template behind one text, before it, or between two.
        texts: of the example.
        word: its label word.
        vocabulary: of the model.
    """
    known = {"blank 0": [vocabulary.blank], "blank 1": [vocabulary.blank - 1], ".": [vocabulary.stop]}
    ids: list[int] = []
    for piece in _ASK[kind]:
        if isinstance(piece, Sentence):
            ids += vocabulary.encode(piece.of(texts[piece.index]))
        else:
            ids += known[piece] if piece in known else vocabulary.encode(f" {word}")
    ids.append(vocabulary.end)
    return {"end": ids[-MOST_INPUT:], "front": ids[:MOST_INPUT], "pair": ids}[kind]


@dataclass(frozen=True)
class Filled:
    """A filling: generated token ids, the sum of their log-probabilities, and how many of the two parts are closed."""

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    closed: int = 0


def fill(
    logits: Callable[[Sequence[int]], Tensor], vocabulary: Vocabulary, beam: int, longest: int = MOST_TOKENS
) -> list[Filled]:
    """The best fillings of the two blanks, one output shared by all examples, best first.

    At every step the decoder's logits are averaged over the examples and the average normalised (so a step counts
    log softmax of the mean logits, as published, and not the mean log-probability: D39). A part ends with the next blank or
    `</s>`. Closed fillings stay in the beam with their sums.

    Args:
        logits: of the decoder ids so far, start token first, to the next token's logits for every example (N, V).
        vocabulary: of the model.
        beam: hypotheses that are kept.
        longest: most tokens that are generated.
    """
    current = [Filled()]
    for _ in range(longest):
        grown: list[Filled] = []
        for item in current:
            grown += [item] if item.closed >= 2 else _grown(item, logits, vocabulary, beam)
        if not grown:
            break
        current = sorted(grown, key=lambda item: item.score, reverse=True)[:beam]
    return current


def _grown(item: Filled, logits: Callable[[Sequence[int]], Tensor], vocabulary: Vocabulary, beam: int) -> list[Filled]:
    shares = logits([vocabulary.start, *item.tokens]).double().mean(dim=0).log_softmax(dim=0)
    # Three more than the beam, since three tokens are forbidden.
    best = shares.sort(descending=True, stable=True)
    found = []
    for share, token in zip(best.values[: beam + 3].tolist(), best.indices[: beam + 3].tolist(), strict=True):
        stops = bool(item.tokens) and item.tokens[-1] == token == vocabulary.stop
        if token in vocabulary.forbidden or stops:
            continue
        closes = token in (vocabulary.blank - item.closed - 1, vocabulary.end)
        found.append(Filled((*item.tokens, token), item.score + share, item.closed + closes))
    return found


def template_text(kind: Kind, tokens: Sequence[str]) -> str:
    """The template that the tokens of a filling spell."""
    head, mask, tail = _SHOWN[kind]
    text = "".join(tokens)
    for blank, shown in zip(BLANKS, (head, mask, tail), strict=True):
        text = text.replace(blank, shown)
    return text.replace("</s>", tail).replace("▁", "_")


def is_usable(text: str) -> bool:
    """Whether `text` is a template with exactly one mask, in which no blank is left (the published search kept all: D39)."""
    if "<extra_id_" in text or "<unk>" in text:
        return False
    try:
        Template.parse(text)
    except DeltatuneError:
        return False
    return True


def from_model(model: torch.nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[Sequence[int]], Tensor]:
    """`logits` of `fill` for a text-to-text model and encoded examples (N, T)."""
    encoded = model.get_encoder()(**inputs)  # type: ignore[operator]

    def logits(ids: Sequence[int]) -> Tensor:
        rows = torch.tensor([list(ids)], device=encoded[0].device).expand(len(encoded[0]), -1)
        out: Tensor = model(encoder_outputs=encoded, attention_mask=inputs["attention_mask"], decoder_input_ids=rows).logits
        return out[:, -1]

    return logits


def spelled(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens as text, a space as `▁`; in a vocabulary of whole words every word has one in front."""
    texts = [str(text) for text in tokenizer.convert_ids_to_tokens(list(tokens))]
    if any(text.startswith("▁") for text in tokenizer.get_vocab()):
        return texts
    return [text if token in tokenizer.all_special_ids else f"▁{text}" for token, text in zip(tokens, texts, strict=True)]


def templates_of(
    model: Any, tokenizer: PreTrainedTokenizerBase, kind: Kind, rows: Sequence[tuple[Sequence[str], str]], beam: int
) -> list[str]:
    """The usable templates of one form that a text-to-text model finds for all training examples together, likeliest first.

    Args:
        model: with blanks in its vocabulary.
        tokenizer: of the model.
        kind: the form.
        rows: texts and label word of each example.
        beam: how many fillings are kept.
    """
    vocabulary = Vocabulary.of(model, tokenizer)
    features = [{"input_ids": asked(kind, texts, word, vocabulary)} for texts, word in rows]
    with torch.inference_mode():
        batch = {name: tensor.to(model.device) for name, tensor in pad(features, int(tokenizer.pad_token_id or 0)).items()}
        found = fill(from_model(model, batch), vocabulary, beam)
    texts = dict.fromkeys(template_text(kind, spelled(item.tokens, tokenizer)) for item in found)
    return [text for text in texts if is_usable(text)]
