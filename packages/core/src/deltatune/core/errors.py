"""The exceptions a user is meant to read."""

from __future__ import annotations


class DeltatuneError(ValueError):
    """Something the user can mend: one line that names what, where, the value and the way out."""


class SharedError(DeltatuneError):
    """One that every process of a launch meets alike; the first of them says it."""
