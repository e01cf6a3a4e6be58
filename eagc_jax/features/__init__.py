"""The published EAGC at the features: conceptor, elastic projection, anchor alignment."""

from eagc_jax.features.alignment import alignment_loss
from eagc_jax.features.conceptors import (
    SecondMoment,
    add_features,
    conceptor,
    conceptor_from_moment,
    energy_ratio,
    init_moment,
)
from eagc_jax.features.coordinator import (
    CoordinatorInfo,
    CoordinatorState,
    coordinate,
    coordinate_gradients,
    init_coordinator,
)
from eagc_jax.features.projection import ElasticProjectionState, elastic_projection
from eagc_jax.features.refresh import refresh_conceptor

__all__ = [
    "CoordinatorInfo",
    "CoordinatorState",
    "ElasticProjectionState",
    "SecondMoment",
    "add_features",
    "alignment_loss",
    "conceptor",
    "conceptor_from_moment",
    "coordinate",
    "coordinate_gradients",
    "elastic_projection",
    "energy_ratio",
    "init_coordinator",
    "init_moment",
    "refresh_conceptor",
]
