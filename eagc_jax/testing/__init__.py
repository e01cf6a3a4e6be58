"""What this library demands of its own transformations, as assertions for anyone's."""

from eagc_jax.testing import matrices, properties
from eagc_jax.testing.aggregator import assert_aggregator, assert_weighting
from eagc_jax.testing.failures import PropertyError
from eagc_jax.testing.transformations import (
    assert_transformation,
    example_params,
    example_updates,
)

__all__ = [
    "PropertyError",
    "assert_aggregator",
    "assert_transformation",
    "assert_weighting",
    "example_params",
    "example_updates",
    "matrices",
    "properties",
]
