"""Methods of category discovery: what is minimised, and how an answer is read off."""

from eagc_jax.gcd.methods.base import Batch, DataView, Method, Role, Task
from eagc_jax.gcd.methods.rankstats import RankStats
from eagc_jax.gcd.methods.registry import METHODS, discover, register
from eagc_jax.gcd.methods.simgcd import SimGCD
from eagc_jax.gcd.methods.vanilla import VanillaGCD

discover(__name__, __path__)

__all__ = [
    "METHODS",
    "Batch",
    "DataView",
    "Method",
    "RankStats",
    "Role",
    "SimGCD",
    "Task",
    "VanillaGCD",
    "register",
]
