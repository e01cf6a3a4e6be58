"""Energy assessment: how strongly, and in which direction, each objective pulls."""

from eagc_jax._checks import NONFINITE_POLICIES
from eagc_jax.energy.assess import assess_energy
from eagc_jax.energy.options import ENERGIES
from eagc_jax.energy.state import AssessEnergyState
from eagc_jax.energy.step import assess_magnitude

__all__ = [
    "ENERGIES",
    "NONFINITE_POLICIES",
    "AssessEnergyState",
    "assess_energy",
    "assess_magnitude",
]
