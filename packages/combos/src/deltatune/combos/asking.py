"""How a task is asked: with its own template, with the bare one, or with one of the user's, and where the soft prompt stands."""

from __future__ import annotations

from typing import Literal

from deltatune.core.data import Task, TaskConfig
from deltatune.core.errors import DeltatuneError
from deltatune.core.template import Literal as Text
from deltatune.core.template import Piece, Prompt, Special, Template

MANUAL, BARE = "manual", "none"
"""Names of the published Y (hand-written) and N (no words of a template, the mask alone behind the texts) templates."""

_CLS, _SEPARATORS = Special("cls"), (Special("sep"), Special("sep+"))


def bare_template(texts: int) -> str:
    """The template without words: texts and mask, each closed by a separator."""
    shown = "".join(f"*sent_{number}**sep+*" for number in range(texts))
    return f"*cls*{shown}*mask**sep+*"


def template_text(config: TaskConfig, texts: int, choice: str, prompt: Literal["first", "last"] | None = None) -> str:
    """The template that `choice` names, with the soft prompt in it.

    Args:
        config: of the task.
        texts: how many texts an example has.
        choice: `manual` for the task's own, `none` for the bare one, or a template.
        prompt: where the soft prompt goes: `first`, behind `cls`; `last`, before the last separator; None for no soft prompt.

    Raises:
        DeltatuneError: the task has no template, or `choice` is a misspelt one.
    """
    if choice == MANUAL:
        if not config.template:
            raise DeltatuneError(f"task {config.name} has no template of its own; give --template none, or one as text")
        text = config.template
    else:
        text = bare_template(texts) if choice == BARE else choice
    template = Template.parse(text)
    if prompt is None or Prompt() in template.pieces:
        return text
    return str(Template(_with_prompt(template.pieces, prompt)))


def _with_prompt(pieces: tuple[Piece, ...], place: Literal["first", "last"]) -> tuple[Piece, ...]:
    if place == "first":
        at = pieces.index(_CLS) + 1 if _CLS in pieces else 0
        # Between `cls` and a piece stands an empty text, whose place the prompt takes.
        after = pieces[at + 1 :] if at < len(pieces) and pieces[at] == Text("") else pieces[at:]
        return (*pieces[:at], Prompt(), *after)
    closing = [number for number, piece in enumerate(pieces) if piece in _SEPARATORS]
    at = closing[-1] if closing else len(pieces)
    before = pieces[: at - 1] if at and pieces[at - 1] == Text("") else pieces[:at]
    return (*before, Prompt(), *pieces[at:])


def texts_of(task: Task) -> int:
    """How many texts an example of the task has."""
    return len(task.train[0].texts)
