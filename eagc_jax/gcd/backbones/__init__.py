"""Networks that give an item its feature."""

from eagc_jax.gcd.backbones.base import Backbone, ComputeDtype

__all__ = ["Backbone", "ComputeDtype"]
