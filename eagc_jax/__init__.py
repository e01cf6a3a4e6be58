"""Energy-aware gradient coordination in JAX: several objectives, one Optax update."""

import importlib
import importlib.util
import typing

from eagc_jax._version import __version__

if typing.TYPE_CHECKING:
    from eagc_jax import (
        aggregators,
        diagnostics,
        features,
        pareto,
        rewards,
        scaling,
        weightings,
    )
    from eagc_jax.coordinator import eagc
    from eagc_jax.diagnostics import probe
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
    from eagc_jax.optimizers import OptimizerAwareState, optimizer_aware
    from eagc_jax.pareto import pareto_front
    from eagc_jax.weighted_losses import loss_weighting

# Loaded when they are used: the command `eagc` answers `--help` without JAX.
_PLACES = {
    "AssessEnergyState": "energy",
    "AssessedUpdates": "objectives",
    "ElasticProjectionState": "features",
    "OptimizerAwareState": "optimizers",
    "SoftGateState": "gating",
    "assess_energy": "energy",
    "cross_gram": "gram",
    "eagc": "coordinator",
    "elastic_projection": "features",
    "gram_matrix": "gram",
    "loss_weighting": "weighted_losses",
    "minimum_temperature": "gating",
    "optimizer_aware": "optimizers",
    "pareto_front": "pareto",
    "probe": "diagnostics",
    "soft_gate": "gating",
    "stack_objectives": "objectives",
    "sum_objectives": "objectives",
    "unstack_objectives": "objectives",
    "value_and_grads": "gradients",
    "value_and_grads_at_feature": "gradients",
    "value_and_grads_by_batch": "gradients",
}

__all__ = [
    "AssessEnergyState",
    "AssessedUpdates",
    "ElasticProjectionState",
    "OptimizerAwareState",
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
    "loss_weighting",
    "minimum_temperature",
    "optimizer_aware",
    "pareto",
    "pareto_front",
    "probe",
    "rewards",
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


def __getattr__(name: str) -> object:
    if name in _PLACES:
        place = importlib.import_module(f"{__name__}.{_PLACES[name]}")
        found = globals()[name] = getattr(place, name)
        return found
    if not name.startswith("__") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
