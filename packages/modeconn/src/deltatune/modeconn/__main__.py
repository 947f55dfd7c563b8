"""`python -m deltatune.modeconn`: the same as `deltatune-modeconn`."""

from deltatune.core.processes import leave
from deltatune.modeconn.cli import main

if __name__ == "__main__":
    leave(main())
