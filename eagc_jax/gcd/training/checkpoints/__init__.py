"""A run on the disk, from which a killed one goes on to the same bits."""

from eagc_jax.gcd.training.checkpoints.arrays import Damaged
from eagc_jax.gcd.training.checkpoints.interrupts import Terminated
from eagc_jax.gcd.training.checkpoints.keeper import Checkpoints

__all__ = ["Checkpoints", "Damaged", "Terminated"]
