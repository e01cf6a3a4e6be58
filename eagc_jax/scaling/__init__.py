"""Scaling one gradient by what it did before: ordinary Optax transformations."""

from eagc_jax.scaling.adamp import ScaleByAdamPState, adamp, scale_by_adamp
from eagc_jax.scaling.diffgrad import ScaleByDiffGradState, diffgrad, scale_by_diffgrad
from eagc_jax.scaling.stability import ScaleByStabilityState, scale_by_stability

__all__ = [
    "ScaleByAdamPState",
    "ScaleByDiffGradState",
    "ScaleByStabilityState",
    "adamp",
    "diffgrad",
    "scale_by_adamp",
    "scale_by_diffgrad",
    "scale_by_stability",
]
