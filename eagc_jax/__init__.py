"""Energy-aware gradient coordination in JAX: several objectives, one Optax update."""

from eagc_jax import aggregators, diagnostics, features, scaling, weightings
from eagc_jax._version import __version__
from eagc_jax.coordinator import eagc
from eagc_jax.energy import AssessEnergyState, assess_energy
from eagc_jax.features import ElasticProjectionState, elastic_projection
from eagc_jax.gating import SoftGateState, minimum_temperature, soft_gate
from eagc_jax.gradients import (
    value_and_grads,
    value_and_grads_at_feature,
    value_and_grads_by_batch,
)
from eagc_jax.gram import cross_gram, gram_matrix
from eagc_jax.objectives import (
    AssessedUpdates,
    stack_objectives,
    sum_objectives,
    unstack_objectives,
)

__all__ = [
    "AssessEnergyState",
    "AssessedUpdates",
    "ElasticProjectionState",
    "SoftGateState",
    "__version__",
    "aggregators",
    "assess_energy",
    "cross_gram",
    "diagnostics",
    "eagc",
    "elastic_projection",
    "features",
    "gram_matrix",
    "minimum_temperature",
    "scaling",
    "soft_gate",
    "stack_objectives",
    "sum_objectives",
    "unstack_objectives",
    "value_and_grads",
    "value_and_grads_at_feature",
    "value_and_grads_by_batch",
    "weightings",
]
