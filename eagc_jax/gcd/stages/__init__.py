"""The parts of the whole way from data to categories, see `eagc_jax.gcd.pipeline`."""
