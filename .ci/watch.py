"""Run a command that runs nox, pass its output on, and close with the minutes and the test result of each session."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass

START = re.compile(r"nox > Running session (\S+)")
END = re.compile(r"nox > Session (\S+) (was successful|skipped|failed|aborted|interrupted)")
PYTEST = re.compile(r"=+ (.*\b(?:passed|failed|error|errors|no tests ran)\b.* in [\d.]+s.*?) =+")
COLOUR = re.compile(r"\x1b\[[\d;]*m")


@dataclass
class Session:
    """One session of nox: when it began (s), how long it took (s), how it ended, pytest's closing line."""

    started: float
    seconds: float = 0.0
    outcome: str = "did not end"
    tests: str = ""


def main(budget: float, command: str) -> int:
    """Run `command`; its exit code, or 1 where it succeeded in more than twice `budget` minutes: machines differ by that much."""
    begun = time.monotonic()
    sessions: dict[str, Session] = {}
    current = Session(begun)
    with subprocess.Popen(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            plain = COLOUR.sub("", line)
            if found := START.search(plain):
                current = sessions[found[1]] = Session(time.monotonic())
            elif found := PYTEST.search(plain):
                current.tests = found[1]
            elif (found := END.search(plain)) and found[1] in sessions:
                session = sessions[found[1]]
                session.seconds, session.outcome = time.monotonic() - session.started, found[2]
    minutes = (time.monotonic() - begun) / 60
    print("\nminutes per session")
    for name, session in sessions.items():
        print(f"  {session.seconds / 60:5.1f}  {name}: {session.outcome}  {session.tests}".rstrip())
    print(f"  {minutes:5.1f}  in all, of {budget:.0f}")
    if process.returncode == 0 and minutes > budget:
        print(f"too slow: {minutes:.1f} minutes, the budget is {budget:.0f}")
        return int(minutes > 2 * budget)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2]))
