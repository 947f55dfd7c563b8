"""`deltatune reproduce`: the claims of every installed paper."""

from __future__ import annotations

from importlib.metadata import entry_points

from deltatune.core.cli.runner import version
from deltatune.core.errors import DeltatuneError


def papers() -> dict[str, str]:
    """The installed papers: name and module, from the entry-point group `deltatune.papers`, sorted by name."""
    return {entry.name: entry.value for entry in sorted(entry_points(group="deltatune.papers"))}


def reproduce() -> None:
    """Check the claims of every installed paper.

    Raises:
        DeltatuneError: no paper is installed, or none has claims in this version.
    """
    found = papers()
    if not found:
        raise DeltatuneError("no paper is installed; install a package deltatune-<paper> beside deltatune-core")
    raise DeltatuneError(f"no claims yet in version {version()} (installed papers: {', '.join(found)})")
