"""`deltatune reproduce` and `deltatune-<paper> reproduce`: the claims of all installed papers, or of one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deltatune.core.cli.runner import SavedConfig, version


def reproduce_of(paper: str | None) -> Callable[..., int]:
    """The command `reproduce` of one paper, named as its entry point, or of the core and all installed papers (None)."""

    def reproduce(
        all: bool = False,
        only: str | None = None,
        seeds: int | None = None,
        seed_offset: int = 0,
        workers: int | None = None,
        out_dir: Path | None = None,
        saved: SavedConfig = SavedConfig(),  # noqa: B008
    ) -> int:
        """Check published findings, as executable claims, on the built-in world.

        Prints one table and writes claims.json, table.md, figures and report.html. What was measured before is found again, so
        the same command goes on after Ctrl-C. The exit code is 1 if an experiment failed; what the verdicts are does not count.

        Args:
            all: every claim, not only the headlines.
            only: ids of claims, separated by commas: C1,C3, or modeconn/C3 where several papers are checked.
            seeds: how many; each claim has its own number, 5 or more, if this is left out.
            seed_offset: the first seed; another offset measures all anew.
            workers: processes, among which the cores are divided; null takes one for each core.
            out_dir: the folder of the results; null takes runs/reproduce-DIGEST, with the digest of these options.
        """
        from deltatune.core.claims.installed import sources
        from deltatune.core.claims.reproduction import Request, plan
        from deltatune.core.cli.parsing import split_names

        modules = sources()
        modules = modules if paper is None else {paper: modules[paper]}
        planned = plan(Request(modules, all, split_names(only), seeds, seed_offset))
        for name in planned.without:
            sys.stdout.write(f"{name} has no claims in version {version()}\n")
        if not planned.claims:
            return 0
        program = "deltatune" if paper is None else f"deltatune-{paper}"
        return _carry_out(planned, out_dir, workers, program, saved)

    return reproduce


reproduce = reproduce_of(None)


def _carry_out(planned: Any, out_dir: Path | None, workers: int | None, program: str, saved: str) -> int:
    from deltatune.core.claims.reproduction import carry_out
    from deltatune.core.cli.claims_shown import Shown, print_table

    request = planned.request
    folder = out_dir or Path("runs") / f"reproduce-{request.digest()}"
    with Shown(planned.units) as shown:
        claims = carry_out(planned, folder, workers, {"command": _command(program, request)}, saved, shown)
    print_table(claims)
    sys.stdout.write(f"{folder / 'report.html'}\n")
    return int(any(claim["failed"] for claim in claims))


def _command(program: str, request: Any) -> str:
    words: Sequence[str] = [
        program,
        "reproduce",
        *(["--all"] if request.every else []),
        *(["--only", ",".join(request.only)] if request.only else []),
        *(["--seeds", str(request.seeds)] if request.seeds is not None else []),
        *(["--seed_offset", str(request.seed_offset)] if request.seed_offset else []),
    ]
    return " ".join(words)
