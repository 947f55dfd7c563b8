"""`python -m deltatune.ensemble`: the same as `deltatune-ensemble`."""

import sys

from deltatune.ensemble.cli import main

if __name__ == "__main__":
    sys.exit(main())
