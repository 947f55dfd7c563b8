"""`python -m deltatune.core`: the same as `deltatune`."""

from deltatune.core.cli import main
from deltatune.core.processes import leave

if __name__ == "__main__":
    leave(main())
