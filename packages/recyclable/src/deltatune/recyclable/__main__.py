"""`python -m deltatune.recyclable`: the same as `deltatune-recyclable`."""

import sys

from deltatune.recyclable.cli import main

if __name__ == "__main__":
    sys.exit(main())
