"""`python -m deltatune.subspace`: the same as `deltatune-subspace`."""

import sys

from deltatune.subspace.cli import main

if __name__ == "__main__":
    sys.exit(main())
