"""`python -m deltatune.core`: the same as `deltatune`."""

import sys

from deltatune.core.cli import main

if __name__ == "__main__":
    sys.exit(main())
