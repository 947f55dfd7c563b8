"""The figures of claims, drawn from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.core.claims.claim import Claim, Figure
from deltatune.core.files import replacing

FOLDER = "figures"
DOTS_PER_INCH = 130


def draw(claim: Claim, records: Sequence[Mapping[str, Any]], out_dir: Path) -> list[dict[str, str]]:
    """Draw the figures of `claim` into `out_dir/figures`.

    Args:
        claim: its declared figures.
        records: of all seeds, each with its `seed`; nothing is drawn without any.
        out_dir: of the whole run.

    Returns:
        `file` (relative to `out_dir`) and `caption` of each, and `error` instead of `file` where one could not be drawn.
    """
    drawn = []
    for figure in claim.figures if records else ():
        file = f"{FOLDER}/{claim.paper}-{claim.id}-{figure.name}.png"
        try:
            _save(figure, [dict(record) for record in records], out_dir / file)
            drawn.append({"file": file, "caption": figure.caption})
        except Exception as error:  # a figure that fails takes no finding with it
            drawn.append({"error": f"{type(error).__name__}: {error}", "caption": figure.caption})
    return drawn


def _save(figure: Figure, records: list[dict[str, Any]], path: Path) -> None:
    # Here, not above: no command waits for matplotlib that draws nothing. No pyplot, whose state is global.
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=figure.size, layout="constrained")
    figure.draw(canvas, records)
    with replacing(path) as target:
        canvas.savefig(target, dpi=DOTS_PER_INCH, format="png", facecolor="white")
