"""``python -m benchmarks.recipes``."""

import sys

from benchmarks.recipes.command import main

if __name__ == "__main__":
    sys.exit(main())
