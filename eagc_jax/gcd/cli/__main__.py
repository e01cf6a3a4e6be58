"""`python -m eagc_jax.gcd.cli`, the same as `eagc`."""

import sys

from eagc_jax.gcd.cli import main

sys.exit(main())
