"""Check what is installed: exactly the packages named on the command line are in the namespace, and all of them import."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys

import deltatune


def main(expected: set[str]) -> None:
    """Fail with one line unless the namespace holds exactly `expected` and every module in it imports."""
    found = {module.name for module in pkgutil.iter_modules(deltatune.__path__)}
    if found != expected:
        sys.exit(f"the namespace deltatune holds {sorted(found)}, expected {sorted(expected)}")
    names = {(item.name or "").lower() for item in importlib.metadata.distributions()}
    distributions = {name.removeprefix("deltatune-") for name in names if name.startswith("deltatune")}
    if distributions != expected:
        sys.exit(f"the distributions {sorted(distributions)} are installed, expected {sorted(expected)}")
    count = 0
    for module in pkgutil.walk_packages(deltatune.__path__, "deltatune."):
        importlib.import_module(module.name)
        count += 1
    print(f"{count} modules of {', '.join(sorted(expected))} imported, from {next(iter(deltatune.__path__))}")


if __name__ == "__main__":
    main(set(sys.argv[1:]))
