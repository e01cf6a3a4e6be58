"""What this library demands of its own transformations, as assertions for anyone's."""

from eagc_jax.testing import matrices, properties
from eagc_jax.testing.aggregator import assert_aggregator, assert_weighting
from eagc_jax.testing.failures import PropertyError

__all__ = [
    "PropertyError",
    "assert_aggregator",
    "assert_weighting",
    "matrices",
    "properties",
]
