"""Methods of category discovery behind one small interface."""

from eagc_jax.gcd.methods.base import Batch, DataView, Method, Role, Task
from eagc_jax.gcd.methods.rankstats import RankStats
from eagc_jax.gcd.methods.simgcd import SimGCD
from eagc_jax.gcd.methods.vanilla import VanillaGCD

# By the name that flags take; a further method is one more entry.
METHODS: dict[str, type] = {
    "simgcd": SimGCD,
    "rankstats": RankStats,
    "gcd": VanillaGCD,
}

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
]
