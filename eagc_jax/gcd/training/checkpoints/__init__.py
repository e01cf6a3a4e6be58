"""Checkpoints: a run that was killed goes on from them, and ends with the same bits."""

from eagc_jax.gcd.training.checkpoints.arrays import Damaged
from eagc_jax.gcd.training.checkpoints.interrupts import Terminated
from eagc_jax.gcd.training.checkpoints.keeper import Checkpoints

__all__ = ["Checkpoints", "Damaged", "Terminated"]
