"""`python -m deltatune.combos`: the same as `deltatune-combos`."""

from deltatune.combos.cli import main
from deltatune.core.processes import leave

if __name__ == "__main__":
    leave(main())
