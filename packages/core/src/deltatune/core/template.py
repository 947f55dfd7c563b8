"""The template language of prompts with a mask (LM-BFF, ACL 2021; arXiv 2203.06904), parsed into a checked structure.

A template is cut at every `*`; a piece between two stars is a token of the language or literal text:

- `cls`, `sep`, `mask`: the special token (no `cls` where the tokenizer has none); `sep+`: `sep`, ending the segment.
- `prompt`: the soft prompt, ids -1, -2, ...
- `sent_0`: text 0 of the example; `+sent_0` with a space in front, `sent-_0` without its last character, `sentl_0` and
  `sentu_0` with the first character in lower and upper case. The marks combine: `+sentl-_1`.
- `label_0`, `labelx_0`: the label word of class 0, of the class of demonstration 0.
- anything else: literal text, `_` standing for a space.

Unless it begins with `_`, a piece one edit (a character more, less or other, or two swapped) away from a token is refused as
misspelt, so is one in other letter case, between spaces, or with an index left out or too many: `*maks*`, `*sent_x*`, `*mask_0*`.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltatune.core.errors import DeltatuneError

if typing.TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Case = typing.Literal["", "l", "u"]
_T = typing.TypeVar("_T")
_SENTENCE = re.compile(r"(\+?)sent([lu]?)(-?)_(0|[1-9][0-9]*)")
_LABEL = re.compile(r"label(x?)_(0|[1-9][0-9]*)")
_PLAIN = ("cls", "sep", "sep+", "mask", "prompt")
_INDEXED = ("sent", "sentl", "sentu", "label", "labelx")
_MEANT = {name: name for name in _PLAIN} | {f"{n}_0": n for n in _PLAIN} | {f"{n}_0": f"{n}_0" for n in _INDEXED}


@dataclass(frozen=True, slots=True)
class Special:
    """A special token of the tokenizer: `cls`, `sep`, `sep+` or `mask`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Prompt:
    """The soft prompt; a second one repeats the same rows."""

    def __str__(self) -> str:
        return "prompt"


@dataclass(frozen=True, slots=True)
class Sentence:
    """Text `index` (from 0) of the example; `case` is that of its first character: as it is, `l`ower or `u`pper."""

    index: int
    leading_space: bool = False
    drop_last: bool = False
    case: Case = ""

    def __str__(self) -> str:
        return f"{'+' * self.leading_space}sent{self.case}{'-' * self.drop_last}_{self.index}"

    def of(self, text: str) -> str:
        """`text` changed as the marks say."""
        text = text[:-1] if self.drop_last else text
        first = {"": text[:1], "l": text[:1].lower(), "u": text[:1].upper()}[self.case]
        return " " * self.leading_space + first + text[1:]


@dataclass(frozen=True, slots=True)
class Label:
    """The label word of class `index`, or of the class of demonstration `index` (from 0)."""

    index: int
    of_demonstration: bool = False

    def __str__(self) -> str:
        return f"label{'x' * self.of_demonstration}_{self.index}"


@dataclass(frozen=True, slots=True)
class Literal:
    """Text as the template spells it (`_` for a space); empty between two tokens."""

    text: str

    def __str__(self) -> str:
        return self.text


Piece = Special | Prompt | Sentence | Label | Literal
_CLS, _SEGMENT, _MASK = Special("cls"), Special("sep+"), Special("mask")


@dataclass(frozen=True)
class Lengths:
    """Limits in tokens: of the whole sequence, of each piece showing text 0, of each showing another (None: no limit).

    `truncate_head` cuts what is too long from the front, `cls` included, instead of around the mask.
    """

    max_length: int
    first_sentence_limit: int | None = None
    other_sentence_limit: int | None = None
    truncate_head: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_length", 1), ("first_sentence_limit", 0), ("other_sentence_limit", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DeltatuneError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True, slots=True)
class Encoding:
    """T tokens without padding: ids, -(i+1) for row i of the soft prompt; segments, 0 or 1; the index of the mask."""

    input_ids: list[int]
    token_type_ids: list[int]
    mask_position: int | None


@dataclass(frozen=True)
class Template:
    """A parsed template with at most one mask; `str` gives its text back."""

    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        masks = [number for number, piece in enumerate(self.pieces) if piece == _MASK]
        if len(masks) > 1:
            position = sum(len(str(piece)) + 1 for piece in self.pieces[: masks[1]]) + 1
            raise DeltatuneError(f"template character {position}: a second '*mask*' in {str(self)!r}; keep one")

    def __str__(self) -> str:
        return "*".join(map(str, self.pieces))

    @classmethod
    def parse(cls, text: str, *, mask_required: bool = True) -> Template:
        """The template that `text` spells, such as `*cls*prompt*sent_0*_It_was*mask*.*sep+*`.

        Raises DeltatuneError for a misspelt token, two masks, or none where it is required; characters count from 1.
        """
        pieces: list[Piece] = []
        position = 1
        for part in text.split("*"):
            pieces.append(_piece(part))
            if isinstance(pieces[-1], Literal) and (meant := _meant(part)):
                where = f"template character {position}: unknown piece '*{part}*' in {text!r}"
                raise DeltatuneError(f"{where}; write '*{meant}*', or begin it with '_' if it is text")
            position += len(part) + 1
        if mask_required and _MASK not in pieces:
            raise DeltatuneError(f"template character {max(len(text), 1)}: {text!r} ends without '*mask*'; add one")
        return cls(tuple(pieces))

    def encode(
        self,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        lengths: Lengths,
        *,
        prompt_length: int = 10,
        label_word_ids: Sequence[int] | None = None,
        support_labels: Sequence[int] | None = None,
    ) -> Encoding:
        """One example: its texts, then those of its demonstrations, as at most `lengths.max_length` token ids.

        Text never becomes a special token. What is too long is cut from the end as far as the mask; where the mask
        would be cut off, the text before it goes first, leftwards from the last token but one. `cls` (but for
        `truncate_head`), soft prompt and mask always stay. `support_labels`: the demonstrations' class numbers.

        Raises DeltatuneError where a text, label or special token is not there, or `max_length` is too small.
        """
        source = _Source(texts, tokenizer, lengths, prompt_length, label_word_ids, support_labels)
        stay = {Prompt(), _MASK} if lengths.truncate_head else {_CLS, Prompt(), _MASK}
        ids, segments, fixed = list[int](), list[int](), list[bool]()
        mask: int | None = None
        # Published models know two segments, so a third counts as the second; RoBERTa's know one.
        segment, last_segment = 0, int("token_type_ids" in tokenizer.model_input_names)
        for piece in self.pieces:
            mask = len(ids) if piece == _MASK else mask
            ids += source.ids(piece) if str(piece) else []
            segments += [segment] * (len(ids) - len(segments))
            fixed += [piece in stay] * (len(ids) - len(fixed))
            segment = min(segment + (piece == _SEGMENT), last_segment)
        kept = _kept(fixed, mask, lengths, str(self))
        mask = None if mask is None else kept.index(mask)
        return Encoding([ids[index] for index in kept], [segments[index] for index in kept], mask)


def plain_encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, lengths: Lengths) -> Encoding:
    """The texts without template: `cls text sep text sep`, each text its own segment, cut from the end to `lengths`."""
    pieces: list[Piece] = [piece for index in range(len(texts)) for piece in (Sentence(index), _SEGMENT)]
    return Template((_CLS, *pieces)).encode(texts, tokenizer, lengths)


def label_word_ids(words: Mapping[str, str], labels: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token id of every label's word, in the order of `labels`.

    A word is looked up with a space in front, as inside a sentence; one that begins with `<`, `[`, `.` or `,` as it is.
    Raises DeltatuneError for a label without a word, or a word that is not one token of the vocabulary.
    """
    ids: list[int] = []
    for label in labels:
        if label not in words:
            raise DeltatuneError(f"no label word for label {label!r}, only for {', '.join(map(repr, words))}; add it")
        word = words[label]
        pieces = [word] if word.startswith(("<", "[", ".", ",")) else tokenizer.tokenize(" " + word)
        token = tokenizer.convert_tokens_to_ids(pieces[0]) if len(pieces) == 1 else None
        if token is None or token == tokenizer.unk_token_id:
            found = "unknown" if len(pieces) == 1 else f"not one token but {len(pieces)}: {' '.join(pieces)}"
            raise DeltatuneError(f"label word {word!r} of label {label!r} is {found}; choose a word that is one token")
        ids.append(token)
    return ids


@dataclass(frozen=True, slots=True)
class _Source:
    texts: Sequence[str]
    tokenizer: PreTrainedTokenizerBase
    lengths: Lengths
    prompt_length: int
    label_word_ids: Sequence[int] | None
    support_labels: Sequence[int] | None

    def ids(self, piece: Piece) -> list[int]:
        match piece:
            case Special(name):
                token = getattr(self.tokenizer, f"{name.rstrip('+')}_token_id")
                if token is None and name != "cls":
                    raise DeltatuneError(f"the tokenizer has no token for '*{name}*' of the template; use another model")
                return [] if token is None else [token]
            case Prompt():
                return [-(row + 1) for row in range(self.prompt_length)]
            case Sentence(index):
                limit = self.lengths.first_sentence_limit if index == 0 else self.lengths.other_sentence_limit
                return self._text(piece.of(_at(self.texts, index, piece, "text")))[:limit]
            case Label(index, of_demonstration):
                label = _at(self.support_labels, index, piece, "demonstration label") if of_demonstration else index
                return [_at(self.label_word_ids, label, piece, "label word")]
            case Literal(text):
                # A sentence-piece tokenizer would put a space before the full stop of "*mask*.*".
                single = len(text) == 1 and text.isascii() and text != "_"
                token = self.tokenizer.convert_tokens_to_ids(text) if single else None
                return self._text(text.replace("_", " ")) if token in (None, self.tokenizer.unk_token_id) else [token]

    def _text(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        # A vocabulary of whole words holds "[MASK]" as a word, so splitting alone does not keep it out.
        unknown, special = self.tokenizer.unk_token_id, set(self.tokenizer.all_special_ids)
        return [unknown if token in special else token for token in ids if unknown is not None or token not in special]


def _at(values: Sequence[_T] | None, index: int, piece: Piece, what: str) -> _T:
    if values is None or not 0 <= index < len(values):
        raise DeltatuneError(f"template piece '*{piece}*': no {what} {index} among the {len(values or ())} given (from 0)")
    return values[index]


def _kept(fixed: Sequence[bool], mask: int | None, lengths: Lengths, template: str) -> list[int]:
    """The indices of the tokens that stay, all of the fixed ones among them; `Template.encode` tells which."""
    count, anchor = len(fixed), -1 if mask is None else mask
    tail, head, beside = range(count - 1, anchor, -1), range(anchor - 2, -1, -1), range(max(anchor - 1, 0), anchor)
    order = (*tail, *head, *beside) if anchor < lengths.max_length else (*head, *tail, *beside)
    removable = [index for index in (range(count) if lengths.truncate_head else order) if not fixed[index]]
    if (least := count - len(removable)) > lengths.max_length:
        raise DeltatuneError(f"max_length {lengths.max_length} is too small for {template!r}: give it at least {least}")
    gone = set(removable[: max(count - lengths.max_length, 0)])
    return [index for index in range(count) if index not in gone]


def _piece(text: str) -> Piece:
    if text in _PLAIN:
        return Prompt() if text == "prompt" else Special(text)
    if sentence := _SENTENCE.fullmatch(text):
        plus, case, minus, index = sentence.groups()
        return Sentence(int(index), bool(plus), bool(minus), typing.cast(Case, case))
    if label := _LABEL.fullmatch(text):
        return Label(int(label[2]), bool(label[1]))
    return Literal(text)


def _meant(text: str) -> str | None:
    """The token that literal text looks like, if any; the rule is at the head of this module."""
    shape = re.sub("[0-9]+", "0", text.strip(" +").casefold().replace("-_", "_"))
    exact = f"{shape}_0" if shape in _INDEXED else _MEANT.get(shape)
    near = (name for known, name in _MEANT.items() if _one_edit(shape, known))
    return None if text.startswith("_") else exact or next(near, None)


def _one_edit(a: str, b: str) -> bool:
    """Whether at most one edit turns `a` into `b`."""
    start = next((index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[start:], b[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
