"""`python -m deltatune.subspace`: the same as `deltatune-subspace`."""

from deltatune.core.processes import leave
from deltatune.subspace.cli import main

if __name__ == "__main__":
    leave(main())
