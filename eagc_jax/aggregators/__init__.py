"""Aggregators: per-objective updates ``(K, ...)`` to one update ``(...)``.

One method a file. Each is an Optax transformation, first in a chain; most are a pure
function of the Gram matrix (:mod:`eagc_jax.weightings`) between two passes over the
gradients. ``_base.py`` says how to add one.
"""

from eagc_jax.aggregators._base import AggregateState, GramOptions, from_weighting
from eagc_jax.aggregators._weighting import Problem, Weighting
from eagc_jax.aggregators.dualproj import dualproj
from eagc_jax.aggregators.mean import mean
from eagc_jax.aggregators.mgda import mgda
from eagc_jax.aggregators.upgrad import upgrad

__all__ = [
    "AggregateState",
    "GramOptions",
    "Problem",
    "Weighting",
    "dualproj",
    "from_weighting",
    "mean",
    "mgda",
    "upgrad",
]
