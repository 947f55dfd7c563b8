"""Writes docs/api.md: what `__all__` of each package lists, with signatures and docstrings.

    uv run python docs/make_api.py            # write it
    uv run python docs/make_api.py --check    # end with code 1 if it is not what would be written

The sources are read, not imported. A package without `__all__` has no section.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
HEAD = """# Public names

Made from the docstrings by `docs/make_api.py`; change those, then run it. What is public, and how long it holds, is said in
[stability.md](stability.md).
"""
LONGEST = 100  # of a signature in one line, in characters


def main(words: list[str]) -> int:
    """Write the page, or check it."""
    text = page()
    if "--check" not in words:
        PAGE.write_text(text, encoding="utf-8", newline="\n")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write("docs/api.md is not what the docstrings say; run `uv run python docs/make_api.py`\n")
    return 1


def page() -> str:
    """The whole page."""
    folders = sorted(ROOT.glob("packages/*/src"), key=lambda path: (path.parent.name != "core", path.parent.name))
    modules = [load(path, path.parent.name) for path in folders]
    public = [module for module in modules if module.exports]
    contents = "".join(f"- [{module.path}](#{module.path.replace('.', '')})\n" for module in public)
    return "\n".join([HEAD, contents, *(section(module) for module in public)])


def load(source: Path, package: str) -> Any:
    """A package as it stands in `source`."""
    return griffe.load(f"deltatune.{package}", search_paths=[source], docstring_parser="google", resolve_aliases=True)


def section(module: Any) -> str:
    """A package: what it says of itself, and each public name."""
    names = sorted((str(name) for name in module.exports), key=str.lower)
    parts = [f"## {module.path}\n", *_prose(module), *(part for name in names for part in _object(name, module[name]))]
    return "\n".join(parts)


def _object(name: str, found: Any) -> Iterator[str]:
    item = found.final_target if found.is_alias else found
    yield f"### {name}\n"
    yield f"`{item.path}`\n"
    if item.is_attribute:
        yield f"```python\n{name} = {item.value}\n```\n"
    elif item.is_function or "__init__" in item.members:
        yield _signature(name, item.members["__init__"] if item.is_class else item)
    yield from _prose(item)
    if item.is_class:
        for member in item.members.values():
            public = not member.name.startswith("_") and not member.is_alias and member.docstring
            if public and (member.is_function or "property" in member.labels):
                yield f"#### {name}.{member.name}\n"
                if member.is_function:
                    yield _signature(member.name, member)
                else:
                    yield f"```python\n{member.name}: {member.annotation}\n```\n"
                yield from _prose(member)


def _signature(name: str, function: Any) -> str:
    """The signature as it is written, without `self`; one parameter a line where it is long."""
    parts: list[str] = []
    marked = False
    for item in function.parameters:
        if item.name in ("self", "cls"):
            continue
        kind = str(item.kind.value)
        if kind == "keyword-only" and not marked and not any(part.startswith("*") for part in parts):
            parts.append("*")
            marked = True
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        hint = f": {item.annotation}" if item.annotation else ""
        default = f" = {item.default}" if item.default is not None and not stars else ""
        parts.append(f"{stars}{item.name}{hint}{default}")
    returns = f" -> {function.returns}" if function.returns and function.name != "__init__" else ""
    text = f"{name}({', '.join(parts)}){returns}"
    if len(text) > LONGEST:
        text = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"
    return f"```python\n{text}\n```\n"


def _prose(item: Any) -> Iterator[str]:
    """The sections of a docstring as Markdown."""
    for part in item.docstring.parsed if item.docstring else ():
        kind = str(part.kind.value)
        if kind == "text":
            yield part.value + "\n"
        elif kind == "parameters":
            yield "".join(f"- `{entry.name}`: {_line(entry.description)}\n" for entry in part.value)
        elif kind == "raises":
            yield "".join(f"- raises `{entry.annotation}`: {_line(entry.description)}\n" for entry in part.value)
        elif kind in ("returns", "yields"):
            yield "".join(f"{kind.capitalize()}: {_line(entry.description)}\n" for entry in part.value)


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
