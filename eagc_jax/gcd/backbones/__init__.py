"""Networks that turn items into features, and a cache of computed features."""

from eagc_jax.gcd.backbones import cache
from eagc_jax.gcd.backbones.base import Backbone, ComputeDtype
from eagc_jax.gcd.backbones.callable import callable_backbone, embeddings
from eagc_jax.gcd.backbones.embed import BadRow, Embedded, embed
from eagc_jax.gcd.backbones.neighbours import neighbours
from eagc_jax.gcd.backbones.registry import default_backbone, load, names, register

__all__ = [
    "Backbone",
    "BadRow",
    "ComputeDtype",
    "Embedded",
    "cache",
    "callable_backbone",
    "default_backbone",
    "embed",
    "embeddings",
    "load",
    "names",
    "neighbours",
    "register",
]
