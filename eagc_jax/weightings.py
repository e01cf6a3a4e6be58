"""Weightings: pure functions from a ``(K, K)`` Gram matrix to ``(K,)`` weights.

Each has the name of its aggregator in :mod:`eagc_jax.aggregators`, takes arrays or
NumPy arrays, and works under ``jax.jit`` and ``jax.vmap``.
"""

from eagc_jax.aggregators.dualproj import dualproj_weights as dualproj
from eagc_jax.aggregators.mean import mean_weights as mean
from eagc_jax.aggregators.mgda import mgda_weights as mgda
from eagc_jax.aggregators.upgrad import upgrad_weights as upgrad

__all__ = [
    "dualproj",
    "mean",
    "mgda",
    "upgrad",
]
