"""`python -m deltatune.modeconn`: the same as `deltatune-modeconn`."""

import sys

from deltatune.modeconn.cli import main

if __name__ == "__main__":
    sys.exit(main())
