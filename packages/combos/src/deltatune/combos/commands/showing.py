"""`template show`: a template on real examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from deltatune.combos.asking import template_text, texts_of
from deltatune.core.cli.output import output
from deltatune.core.errors import DeltatuneError
from deltatune.core.template import Encoding, Lengths, Template, label_word_ids
from deltatune.core.tune_config import TaskChoice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def show(
    model: str,
    task: str,
    template: str = "manual",
    label_words: dict[str, str] | None = None,
    data_dir: Path | None = None,
    split: Literal["train", "dev", "test"] = "train",
    examples: int = 3,
    max_length: int = 256,
    prompt_length: int = 0,
    prompt_place: Literal["first", "last"] = "first",
    first_sentence_limit: int | None = None,
    other_sentence_limit: int | None = None,
) -> None:
    """Show a template on examples of a task: its tokens with | between them, the mask, the soft prompt, and the label words.

    Then the lengths of all examples of the split, how many are cut.

    Args:
        model: folder or hub name of a model; only its tokenizer is loaded.
        task: built-in name such as glue/sst-2, or a YAML task file.
        template: manual for the task's own, none for texts and mask without words, or a template as text.
        label_words: label -> word, in place of the task's own.
        data_dir: root of task folders, or the folder that holds the task's files.
        split: which examples.
        examples: how many are shown.
        max_length: longest input in tokens.
        prompt_length: vectors of the soft prompt; 0 shows none.
        prompt_place: where it goes, first or last.
        first_sentence_limit: most tokens of each piece that shows the first text.
        other_sentence_limit: the same for the second text.
    """
    tokenizer = _tokenizer(model)
    if tokenizer.mask_token_id is None:
        raise DeltatuneError(f"model {model}: its tokenizer has no mask token, so no template with a mask can be shown")
    loaded = TaskChoice(task, data_dir, label_words=label_words).load()
    place = prompt_place if prompt_length else None
    parsed = Template.parse(template_text(loaded.config, texts_of(loaded), template, place))
    lengths = Lengths(max_length, first_sentence_limit, other_sentence_limit)
    rows = list(getattr(loaded, split))
    if not rows:
        raise DeltatuneError(f"task {task} has no {split} examples; choose another --split")
    words = dict(loaded.config.label_words)
    labels = list(words) if loaded.regression else list(loaded.labels)
    ids = label_word_ids(words, labels, tokenizer) if words else []
    encodings = [parsed.encode(row.texts, tokenizer, lengths, prompt_length=prompt_length) for row in rows]
    console = output()
    console.print(f"template: {parsed}", soft_wrap=True)
    if words:
        shown = (f"{label} -> {_spell(tokenizer, token)} ({token})" for label, token in zip(labels, ids, strict=True))
        console.print(f"label words: {', '.join(shown)}", soft_wrap=True)
    for row, encoding in zip(rows[:examples], encodings, strict=False):
        console.print(f"{row.id} [{row.label}] {spelled(encoding, tokenizer)}", soft_wrap=True)
    free = Lengths(10**9, first_sentence_limit, other_sentence_limit)
    whole = [len(parsed.encode(row.texts, tokenizer, free, prompt_length=prompt_length).input_ids) for row in rows]
    _show_lengths(encodings, whole)


def _tokenizer(model: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise DeltatuneError(f"--model {model}: no tokenizer there ({str(error).splitlines()[0]})") from error
    return found


def _spell(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))


def spelled(encoding: Encoding, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens of an encoding with | between them; `[P1]` is row 1 of the soft prompt, `>>...<<` the mask."""
    found = []
    for place, token in enumerate(encoding.input_ids):
        text = f"[P{-token}]" if token < 0 else _spell(tokenizer, token)
        found.append(f">>{text}<<" if place == encoding.mask_position else text)
    return "|".join(found)


def _show_lengths(encodings: Sequence[Encoding], whole: Sequence[int]) -> None:
    ordered = sorted(whole)
    cut = sum(length > len(encoding.input_ids) for encoding, length in zip(encodings, whole, strict=True))
    table = Table("examples", "shortest", "median", "longest", "cut", "mask at")
    masks = [encoding.mask_position for encoding in encodings if encoding.mask_position is not None]
    at = f"{min(masks)} to {max(masks)}" if masks else ""
    table.add_row(str(len(ordered)), *(str(ordered[i]) for i in (0, len(ordered) // 2, -1)), str(cut), at)
    output().print(table)
