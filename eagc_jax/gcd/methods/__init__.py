"""Methods of category discovery behind one small interface."""

from eagc_jax.gcd.methods.base import Batch, Method
from eagc_jax.gcd.methods.simgcd import SimGCD

__all__ = ["Batch", "Method", "SimGCD"]
