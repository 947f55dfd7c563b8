"""How `--help` reads: a short usage line, types without the spelling of Python."""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Collection

from jsonargparse import DefaultHelpFormatter

_PLAINER = (
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r", known subclasses: [^()]*(?=\))", ""),  # the option's own help names them
    (r"Optional\[(Literal\[[^\]]*\]|list\[\w+\])\]", r"\1 | null"),
    (r"Union\[((?:\w|, |\[[^\]]*\])*)\]", lambda found: re.sub(r", (?![^\[]*\])", " | ", found[1])),
    (r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " | ")),
    (r"default: (?=\))", 'default: ""'),
    (r"Show the help for the given subclass of \w+ and exit\.", "the settings of one of them, such as LoRA, and exit"),
    (r"Print the configuration after applying.*", "print all options as YAML, as --config reads them, and exit"),
)


class HelpText(DefaultHelpFormatter):
    """The parser's own help, its types in the words that a user types."""

    def _expand_help(self, action: Action) -> str:
        text = str(super()._expand_help(action))
        if str(action.metavar).startswith("{") or action.choices:  # the values are listed beside the name
            text = re.sub(r"\(type: (?:Literal\[[^\]]*\]|[^,()]*), ", "(", text)
        for pattern, plainer in _PLAINER:
            text = re.sub(pattern, plainer, text)
        return text


def usage(prog: str, required: Collection[str]) -> str:
    """What must be given, on one line; everything else is in the list of options."""
    return " ".join([prog, *(f"--{name} {name.upper()}" for name in required), "[options]"])
