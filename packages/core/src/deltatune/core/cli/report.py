"""`deltatune report`: the pages of findings made again from claims.json."""

from __future__ import annotations

import sys
from pathlib import Path

from deltatune.core.claims.publish import read_claims, write_report
from deltatune.core.cli.claims_shown import print_table
from deltatune.core.files import read_json


def report(run: Path) -> None:
    """Make table.md and report.html of a `reproduce` again, from its claims.json and figures, and print the table.

    Args:
        run: the folder that `reproduce` wrote.
    """
    claims = read_claims(run)
    write_report(run, claims, read_json(run / "run.json") if (run / "run.json").exists() else {})
    print_table(claims)
    sys.stdout.write(f"{run / 'report.html'}\n")
