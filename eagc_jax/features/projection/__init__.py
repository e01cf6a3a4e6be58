"""Elastic projection of parameter gradients, a soft PCGrad, for Optax."""

from eagc_jax.features.projection.project import elastic_projection
from eagc_jax.features.projection.state import ElasticProjectionState

__all__ = ["ElasticProjectionState", "elastic_projection"]
