"""The built-in world: a generated language, documents in it, and tasks about it.

Everything is a function of seeds, needs no download and is told in docs/world.md. A task of the world is loaded like any other:
`load_task("world/sentiment-1")`, `--task world/sentiment-1`.
"""

from __future__ import annotations

from deltatune.core.world.corpus import documents
from deltatune.core.world.language import Language
from deltatune.core.world.names import DOMAINS, KINDS, TASKS, UNSTATED
from deltatune.core.world.tasks import task
from deltatune.core.world.tokenizer import tokenizer

__all__ = ["DOMAINS", "KINDS", "TASKS", "UNSTATED", "Language", "documents", "task", "tokenizer"]
