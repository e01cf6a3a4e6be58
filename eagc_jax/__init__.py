"""Energy-aware gradient coordination in JAX."""

from eagc_jax._version import __version__

__all__ = ["__version__"]
