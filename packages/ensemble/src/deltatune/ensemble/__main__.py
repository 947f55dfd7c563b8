"""`python -m deltatune.ensemble`: the same as `deltatune-ensemble`."""

from deltatune.core.processes import leave
from deltatune.ensemble.cli import main

if __name__ == "__main__":
    leave(main())
