"""What this library demands of its own transformations, as assertions for anyone's.

``assert_transformation`` tries an Optax transformation in everything that JAX does with
one; ``assert_aggregator`` and ``assert_weighting`` try the properties that a method
claims; ``strategies`` draw gradients, plain and hostile; ``CLAIMS`` says which of this
library's aggregators claims what. Importing this imports no hypothesis; what draws needs
it: ``pip install 'eagc-jax[testing]'``.
"""

from eagc_jax.testing import matrices, properties, strategies, transformations
from eagc_jax.testing.aggregator import assert_aggregator, assert_weighting
from eagc_jax.testing.claims import CLAIMS, Claim, claims_table
from eagc_jax.testing.failures import PropertyError
from eagc_jax.testing.properties import AggregatorProperty
from eagc_jax.testing.transformations import (
    Checked,
    TransformationProperty,
    assert_transformation,
    example_params,
    example_updates,
)

__all__ = [
    "CLAIMS",
    "AggregatorProperty",
    "Checked",
    "Claim",
    "PropertyError",
    "TransformationProperty",
    "assert_aggregator",
    "assert_transformation",
    "assert_weighting",
    "claims_table",
    "example_params",
    "example_updates",
    "matrices",
    "properties",
    "strategies",
    "transformations",
]
