"""`python -m deltatune.combos`: the same as `deltatune-combos`."""

import sys

from deltatune.combos.cli import main

if __name__ == "__main__":
    sys.exit(main())
