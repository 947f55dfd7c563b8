"""`python -m deltatune.recyclable`: the same as `deltatune-recyclable`."""

from deltatune.core.processes import leave
from deltatune.recyclable.cli import main

if __name__ == "__main__":
    leave(main())
