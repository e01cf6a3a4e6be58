"""Networks that give an item its feature."""

from eagc_jax.gcd.backbones import cache
from eagc_jax.gcd.backbones.base import Backbone, ComputeDtype
from eagc_jax.gcd.backbones.embed import BadRow, Embedded, embed
from eagc_jax.gcd.backbones.neighbours import neighbours

__all__ = [
    "Backbone",
    "BadRow",
    "ComputeDtype",
    "Embedded",
    "cache",
    "embed",
    "neighbours",
]
