"""Aggregators: per-objective updates ``(K, ...)`` to one update ``(...)``.

One method a file. Each is an Optax transformation, first in a chain; most are a pure
function of the Gram matrix (:mod:`eagc_jax.weightings`) between two passes over the
gradients. ``_base.py`` says how to add one.
"""

from eagc_jax.aggregators._base import AggregateState, GramOptions, from_weighting
from eagc_jax.aggregators._direct import DirectOptions, DirectState
from eagc_jax.aggregators._weighting import Problem, Weighting
from eagc_jax.aggregators.chebyshev import chebyshev
from eagc_jax.aggregators.dualproj import dualproj
from eagc_jax.aggregators.dwa import dwa
from eagc_jax.aggregators.famo import famo
from eagc_jax.aggregators.gradnorm import gradnorm
from eagc_jax.aggregators.imtl_l import imtl_l
from eagc_jax.aggregators.mean import mean
from eagc_jax.aggregators.mgda import mgda
from eagc_jax.aggregators.smooth_chebyshev import smooth_chebyshev
from eagc_jax.aggregators.uncertainty_weighting import uncertainty_weighting
from eagc_jax.aggregators.upgrad import upgrad

__all__ = [
    "AggregateState",
    "DirectOptions",
    "DirectState",
    "GramOptions",
    "Problem",
    "Weighting",
    "chebyshev",
    "dualproj",
    "dwa",
    "famo",
    "from_weighting",
    "gradnorm",
    "imtl_l",
    "mean",
    "mgda",
    "smooth_chebyshev",
    "uncertainty_weighting",
    "upgrad",
]
