"""Networks that give an item its feature."""

from eagc_jax.gcd.backbones.base import Backbone, ComputeDtype
from eagc_jax.gcd.backbones.callable import callable_backbone, embeddings
from eagc_jax.gcd.backbones.registry import default_backbone, load, names, register

__all__ = [
    "Backbone",
    "ComputeDtype",
    "callable_backbone",
    "default_backbone",
    "embeddings",
    "load",
    "names",
    "register",
]
